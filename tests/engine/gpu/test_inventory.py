"""Which devices llama.cpp finds, and why a graphics card is not used. Real processes, and builds broken on purpose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeembed.engine.gpu.inventory import (
    LIBRARY_VARIABLE,
    BackendModule,
    Device,
    Inventory,
    chosen_gpus,
    gpu_libraries,
    library_folder,
    take_inventory,
    why_no_gpu,
)
from edgeembed.engine.gpu.nvidia import NvidiaFacts, version_in
from edgeembed.engine.gpu.vulkan import VulkanDevice, VulkanFacts, VulkanKind
from tests.engine.gpu.broken_cuda import build_with_broken_cuda, module_name

CPU = Device(name="CPU", description="a processor", backend="CPU", kind="cpu", memory_free=1, memory_total=2)
CUDA_LIBRARY = [Path("libggml-cuda.so")]
VULKAN_LIBRARY = [Path("libggml-vulkan.so")]


def gpu(name: str, backend: str, **more: Any) -> Device:
    return Device(name=name, description="a card", backend=backend, **({"kind": "gpu"} | more))


def causes(inventory: Inventory, device: str = "auto", *, libraries: list[Path] = CUDA_LIBRARY, **environ: str) -> list[str]:
    return [reason.cause for reason in why_no_gpu(inventory, device, libraries=libraries, environ=environ)]


# --- which card -------------------------------------------------------------------------------------------------------

CARDS = (CPU, gpu("CUDA0", "CUDA"), gpu("CUDA1", "CUDA"), gpu("Vulkan0", "Vulkan"), gpu("Vulkan1", "Vulkan", kind="igpu"))


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("auto", ["CUDA0", "CUDA1"]),
        ("cpu", []),
        ("cuda", ["CUDA0", "CUDA1"]),
        ("cuda:1", ["CUDA1"]),
        ("cuda:2", []),
        ("vulkan", ["Vulkan0"]),
        ("vulkan:1", ["Vulkan1"]),
        ("metal", []),
    ],
)
def test_the_setting_chooses_cards_and_a_card_of_two_backends_counts_once(device: str, names: list[str]) -> None:
    assert [found.name for found in chosen_gpus(Inventory(devices=CARDS), device)] == names


def test_a_card_inside_the_processor_is_used_where_there_is_no_other() -> None:
    inside = gpu("MTL0", "MTL", kind="igpu")
    assert chosen_gpus(Inventory(devices=(CPU, inside)), "auto") == (inside,)
    assert chosen_gpus(Inventory(devices=(CPU, inside)), "metal") == (inside,)
    outside = gpu("CUDA0", "CUDA")
    assert chosen_gpus(Inventory(devices=(CPU, inside, outside)), "auto") == (outside,)
    assert chosen_gpus(Inventory(devices=(CPU, inside, outside)), "metal") == (inside,), "it is named"


def test_a_driver_that_computes_on_the_processor_is_used_only_by_its_number() -> None:
    software = gpu("Vulkan0", "Vulkan", kind="software")
    listed = Inventory(devices=(CPU, software))
    assert chosen_gpus(listed, "auto") == chosen_gpus(listed, "vulkan") == ()
    assert chosen_gpus(listed, "vulkan:0") == (software,)
    card = gpu("Vulkan1", "Vulkan")
    both = Inventory(devices=(CPU, software, card))
    assert chosen_gpus(both, "auto") == chosen_gpus(both, "vulkan") == (card,)
    assert chosen_gpus(both, "vulkan:0") == (software,)


# --- reasons ----------------------------------------------------------------------------------------------------------


def without(**nvidia: Any) -> Inventory:
    return Inventory(backends=("CPU",), devices=(CPU,), nvidia=NvidiaFacts(**nvidia))


def test_a_usable_card_needs_no_reason() -> None:
    assert causes(Inventory(devices=CARDS)) == []


def test_each_reason_has_its_cause() -> None:
    assert causes(Inventory(devices=CARDS), "cpu") == ["device_is_cpu"]
    assert causes(without(cards=1), libraries=[]) == ["no_build"]
    assert causes(without(cards=0)) == ["no_card"]
    assert causes(without(cards=1)) == ["no_driver"]
    assert causes(without()) == ["no_driver"], "a bus that cannot be seen"
    assert causes(without(cards=1, cuda="13.0", driver="580.1"), CUDA_VISIBLE_DEVICES="") == ["hidden"]
    assert causes(without(cards=1, cuda="13.0", driver="580.1"), CUDA_VISIBLE_DEVICES="-1") == ["hidden"]
    assert causes(without(cards=1, cuda="13.0", init_error=803)) == ["driver_fails"]
    assert causes(Inventory(problem="it hangs")) == ["inspection_failed"]
    assert causes(Inventory(devices=CARDS), "cuda:7") == ["no_such_device"]
    assert causes(Inventory(devices=(CPU,)), "metal") == ["no_build"]
    old = msgspec.structs.replace(
        without(cards=1, cuda="11.4", driver="470.1"),
        messages=(
            "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
        ),
    )
    (reason,) = why_no_gpu(old, "auto", libraries=CUDA_LIBRARY, environ={})
    assert reason.cause == "driver_too_old" and "470.1" in reason.text and "11.4" in reason.text
    broken = msgspec.structs.replace(
        without(cards=1, cuda="13.0"),
        modules=(BackendModule(file="libggml-cuda.so", problem="libcudart.so.13: cannot open"),),
    )
    assert causes(broken) == ["broken_module"]


def test_a_build_without_cuda_says_how_to_get_it() -> None:
    (reason,) = why_no_gpu(without(cards=2), "auto", libraries=[], environ={})
    assert "2" in reason.text and "installers/cuda" in (reason.advice or "") and "installers/vulkan" in (reason.advice or "")


def vulkan(*kinds: VulkanKind, **more: Any) -> Inventory:
    found = tuple(VulkanDevice(name=f"{kind} {number}", kind=kind) for number, kind in enumerate(kinds))
    return Inventory(devices=(CPU,), vulkan=VulkanFacts(**{"loader": "1.3.239", "devices": found} | more))


def test_each_reason_of_vulkan_has_its_cause() -> None:
    def of(inventory: Inventory, device: str = "auto", **environ: str) -> list[str]:
        return causes(inventory, device, libraries=VULKAN_LIBRARY, **environ)

    for device in ("auto", "vulkan", "vulkan:0"):
        assert of(vulkan(), device) == ["no_driver"]
        assert of(vulkan("software"), device) == ["software_only"]
        assert of(vulkan(devices=None, error=-3), device) == ["driver_fails"]
        assert of(vulkan("gpu", "software"), device, GGML_VK_VISIBLE_DEVICES="") == ["hidden"]
        assert of(vulkan("gpu", "software"), device, GGML_VK_VISIBLE_DEVICES="1") == ["hidden"]
        assert of(vulkan("gpu"), device) == ["no_such_device"], "a card that lacks what ggml needs"
    module = BackendModule(file="libggml-vulkan.so", problem="libvulkan.so.1: cannot open shared object file")
    (reason,) = why_no_gpu(Inventory(devices=(CPU,), modules=(module,)), "auto", libraries=VULKAN_LIBRARY, environ={})
    assert reason.cause == "broken_module" and "libvulkan1" in (reason.advice or "")
    (reason,) = why_no_gpu(vulkan("software"), "auto", libraries=VULKAN_LIBRARY, environ={})
    assert "software 0" in reason.text and "vulkan:0" in (reason.advice or "")
    (reason,) = why_no_gpu(Inventory(devices=(CPU,)), "vulkan", libraries=CUDA_LIBRARY, environ={})
    assert reason.cause == "no_build" and "installers/vulkan" in (reason.advice or "")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 UTC 2024\nGCC version: 12", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("something else 12.2.0", None),
    ],
)  # fmt: skip
def test_the_drivers_version_is_read_from_the_kernels_file(text: str, version: str | None) -> None:
    assert version_in(text) == version


# --- real processes ---------------------------------------------------------------------------------------------------


def test_the_inventory_has_the_processor() -> None:
    inventory = take_inventory()
    assert inventory.problem is None
    (device,) = [device for device in inventory.devices if device.kind == "cpu"]
    assert device.memory_total > 2**20 and device.description
    assert device.backend in inventory.backends


@pytest.mark.parametrize("content", [b"", b"no library at all"])
def test_a_module_that_cannot_be_loaded_is_named_and_the_processor_still_works(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(build_with_broken_cuda(tmp_path, content)))
    libraries = gpu_libraries(library_folder())
    assert [library.name for library in libraries] == [module_name()]
    inventory = take_inventory()
    assert [module.file for module in inventory.modules] == [module_name()]
    assert inventory.modules[0].problem
    assert [device.kind for device in inventory.devices] == ["cpu"]
    assert causes(inventory, libraries=libraries)[0] == "broken_module"


def test_a_build_that_cannot_be_loaded_is_a_problem_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a build that is linked with CUDA on a machine without a driver."""
    folder = build_with_broken_cuda(tmp_path)
    for file in folder.glob("*ggml-base*"):
        file.unlink()
    monkeypatch.setenv(LIBRARY_VARIABLE, str(folder))
    inventory = take_inventory()
    assert inventory.problem is not None and "ggml-base" in inventory.problem
    assert causes(inventory) == ["inspection_failed"]


def test_a_process_that_hangs_crashes_or_cannot_start_is_a_problem() -> None:
    hung = take_inventory(command=[sys.executable, "-c", "import time; time.sleep(60)"], timeout=1)
    assert "did not finish within 1 s" in (hung.problem or "")
    died = take_inventory(command=[sys.executable, "-c", "import os; os.abort()"])
    assert died.problem is not None and ("SIGABRT" in died.problem or sys.platform == "win32")
    assert "cannot start" in (take_inventory(command=["/no/such/program"]).problem or "")


def test_without_llama_cpp_there_are_no_gpu_libraries(tmp_path: Path) -> None:
    assert gpu_libraries(None) == []
    assert library_folder({LIBRARY_VARIABLE: str(tmp_path)}) == tmp_path
    assert gpu_libraries(tmp_path) == []
