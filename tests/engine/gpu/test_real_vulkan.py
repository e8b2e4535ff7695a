"""Vulkan on Mesa's driver that computes on the processor: devices, rows of whole and part models, one fall and return.

The driver takes more than a minute of processor time for the shaders of a model. `slow_vulkan.py` has the rest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.engine.gpu.inventory import take_inventory
from edgeembed.engine.gpu.placement import Gpus
from edgeembed.engine.gpu.vulkan import VISIBLE_VARIABLE
from tests.engine.gpu.llvmpipe import DEVICE, LEAST_COSINE, driver, is_demoted_and_promoted, on_card, rows_of_processor
from tests.engine.supervisor.real_workers import rows_are_right

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.xdist_group("vulkan"),  # the driver compiles a shader once if the tests run one after the other
]

# --- devices ----------------------------------------------------------------------------------------------------------


def test_the_driver_is_listed_with_its_memory_and_used_only_by_its_number(vulkan_libraries: Path) -> None:
    inventory = take_inventory()
    assert inventory.problem is None
    (device,) = [device for device in inventory.devices if device.backend == "Vulkan"]
    assert (device.name, device.kind) == ("Vulkan0", "software")
    assert "llvmpipe" in device.description
    assert 0 < device.memory_free <= device.memory_total
    assert inventory.vulkan.loader is not None and len(inventory.vulkan.software) == 1
    assert [module.problem for module in inventory.modules] == [None]
    for setting in ("auto", "vulkan"):
        described = Gpus(setting, inspect=lambda: inventory).describe()
        assert described["used"] == []
        assert [reason["cause"] for reason in described["why_no_gpu"]] == ["software_only"]
    assert Gpus(DEVICE).describe()["used"] == ["Vulkan0"]


def test_the_variable_that_makes_ggml_list_it_as_a_card_does_not_make_it_one(
    vulkan_libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE_VARIABLE, "0")
    assert [device.kind for device in take_inventory().devices if device.backend == "Vulkan"] == ["software"]
    assert Gpus("auto").describe()["used"] == []


def test_without_a_driver_there_is_no_device(
    vulkan_libraries: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    inventory = take_inventory()
    assert inventory.problem is None and inventory.vulkan.devices == ()
    assert [device.kind for device in inventory.devices] == ["cpu"]
    assert [reason.cause for reason in Gpus("auto").why_none()] == ["no_driver"]


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["auto", "2"])
async def test_a_decoders_rows_are_the_processors_with_all_layers_and_with_a_part(
    vulkan_libraries: Path, decoder: Path, layers: str
) -> None:
    expected = await rows_of_processor(decoder)
    async with on_card(decoder, layers=layers) as made:
        assert made.status.mode == ("gpu-full" if layers == "auto" else "gpu-partial")
        assert made.status.offload == f"{3 if layers == 'auto' else 2} layers on Vulkan0"
        await rows_are_right(made, expected, LEAST_COSINE)
        assert made.status.demotions == []
        # Drivers of graphics cards run under the same sandbox.
        assert made.info is not None and "no network" in made.info.sandbox.words


# --- demotion and promotion -------------------------------------------------------------------------------------------


async def test_a_driver_that_is_missing_and_then_installed(
    vulkan_libraries: Path, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await rows_of_processor(decoder)
    missing = tmp_path / "icd.json"
    monkeypatch.setenv("VK_ICD_FILENAMES", str(missing))
    async with on_card(decoder) as made:
        reason = await is_demoted_and_promoted(made, expected, "no_driver", lambda: missing.symlink_to(driver()))
        assert "no Vulkan driver finds a card" in reason
