"""Which devices llama.cpp can compute on here, and why a GPU is not among them.

The daemon never loads llama.cpp: `edgeembed.engine.llama.devices` lists the devices in a separate process. When a broken
driver ends that process, this is a result, too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgeembed.common.files import UNREADABLE_JSON
from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.child_environment import child_environment
from edgeembed.engine.gpu.nvidia import NvidiaFacts
from edgeembed.engine.gpu.vulkan import VISIBLE_VARIABLE, VulkanFacts
from edgeembed.engine.llama_package import package_folder

INVENTORY_COMMAND = (sys.executable, "-P", "-m", "edgeembed.engine.llama.devices")
INVENTORY_SECONDS = 20.0
"""Time limit: the first inspection after the machine has started also initialises the card."""
GPU_BACKENDS = ("cuda", "hip", "musa", "vulkan", "metal", "sycl", "opencl", "cann")
"""Backends of ggml that compute on graphics cards, as their modules are named."""
LIBRARY_VARIABLE = "LLAMA_CPP_LIB_PATH"
"""llama-cpp-python's own: another folder with libllama."""

DeviceKind = Literal["cpu", "gpu", "igpu", "software", "accel", "other"]
"""igpu: a card inside the processor, with a share of main memory. software: a driver that computes on the processor."""
NoGpuCause = Literal[
    "device_is_cpu", "hidden", "no_build", "broken_module", "no_card", "no_driver", "driver_too_old", "driver_fails",
    "software_only", "no_such_device", "inspection_failed",
]  # fmt: skip


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A processor or a graphics card. Memory in bytes; 0 if unknown."""

    name: str
    """As ggml names it, such as CUDA0."""
    description: str
    backend: str
    """As ggml names it, such as CUDA, MTL or Vulkan."""
    kind: DeviceKind
    memory_free: int = 0
    memory_total: int = 0
    id: str | None = None
    """Place on the PCI bus."""

    @property
    def has_memory(self) -> bool:
        """Whether it has memory of its own, so that what it holds takes nothing from main memory."""
        return self.kind == "gpu"


class BackendModule(msgspec.Struct, frozen=True, kw_only=True):
    """A backend in a separate file. problem: why it cannot be loaded."""

    file: str
    problem: str | None = None


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that llama.cpp finds, and what else explains which of them can be used."""

    backends: tuple[str, ...] = ()
    """The loaded ones, as ggml names them."""
    devices: tuple[Device, ...] = ()
    modules: tuple[BackendModule, ...] = ()
    """Modules for graphics cards beside llama.cpp."""
    nvidia: NvidiaFacts = NvidiaFacts()
    vulkan: VulkanFacts = VulkanFacts()
    """Only where the build has Vulkan."""
    messages: tuple[str, ...] = ()
    """Warnings and errors that llama.cpp logged."""
    problem: str | None = None
    """Why the inspection failed; the other fields are empty then."""
    problem_cause: Cause = "other"

    @property
    def gpus(self) -> tuple[Device, ...]:
        """Graphics cards; those inside the processor only where there are no others."""
        return _cards(self.devices)


def _cards(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Return the graphics cards among the devices; those inside the processor only where there are no others."""
    cards = tuple(device for device in devices if device.kind == "gpu")
    return cards or tuple(device for device in devices if device.kind == "igpu")


class NoGpuReason(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a GPU is not used."""

    cause: NoGpuCause
    text: str
    advice: str | None = None


def library_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of llama.cpp's libraries, without importing it; None when llama-cpp-python is not installed."""
    if other := environ.get(LIBRARY_VARIABLE):
        return Path(other)
    package = package_folder()
    return package / "lib" if package else None


def gpu_libraries(folder: Path | None) -> list[Path]:
    """Return the libraries of backends for graphics cards, modules and linked ones."""
    if folder is None:
        return []
    pattern = re.compile(rf"(?:lib)?ggml-(?:{'|'.join(GPU_BACKENDS)})\.(?:so|dylib|dll)")
    return sorted(file for file in folder.glob("*ggml-*") if pattern.fullmatch(file.name))


def take_inventory(
    *,
    command: Sequence[str] = INVENTORY_COMMAND,
    timeout: float = INVENTORY_SECONDS,
    environ: Mapping[str, str] | None = None,
) -> Inventory:
    """List the devices in a separate process. If it hangs or crashes, the inventory's `problem` says so."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
            env=child_environment(environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        problem = f"listing the devices did not finish within {timeout:g} s: a driver may hang"
        return Inventory(problem=problem, problem_cause="hang")
    except OSError as error:
        return Inventory(problem=f"cannot start the process that lists the devices: {error}")
    try:
        return msgspec.json.decode(done.stdout, type=Inventory)
    except UNREADABLE_JSON:
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
        problem = f"the process that lists the devices {_end(done.returncode)}: {last}"
        return Inventory(problem=problem, problem_cause=cause_in_foreign_text(last) or "crash")


def _end(code: int) -> str:
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended with exit status {code}"


# --- choice -----------------------------------------------------------------------------------------------------------

_BACKEND_OF = {"cuda": ("CUDA", "ROCm", "HIP", "MUSA"), "vulkan": ("Vulkan",), "metal": ("MTL", "Metal")}
"""ggml's names of the backends that a word of the setting stands for; AMD's cards run the CUDA code under another name."""


def split_setting(device: str) -> tuple[str, int | None]:
    """Return the word and the number of a setting such as "cuda:1"."""
    word, _, number = device.partition(":")
    return word, int(number) if number else None


def chosen_gpus(inventory: Inventory, device: str) -> tuple[Device, ...]:
    """Return the GPUs that the setting allows, in llama.cpp's order, best first; none for "cpu".

    A driver that computes on the processor is chosen only by its number: llama.cpp's own kernels are faster.
    """
    word, number = split_setting(device)
    if word == "cpu":
        return ()
    if word == "auto":
        # Two backends may list the same card: only the first backend's cards count.
        first = next((gpu.backend for gpu in inventory.gpus), None)
        return tuple(gpu for gpu in inventory.gpus if gpu.backend == first)
    named = tuple(found for found in inventory.devices if found.backend in _BACKEND_OF[word])
    return _cards(named) if number is None else named[number : number + 1]


# --- reasons ----------------------------------------------------------------------------------------------------------

_BUILD_ADVICE = {
    "cuda": "installers/cuda in the source tree builds the module with CUDA that llama-cpp-python lacks",
    "vulkan": "installers/vulkan in the source tree builds the module with Vulkan that llama-cpp-python lacks",
    "auto": "installers/vulkan in the source tree builds a module for cards of all makers, installers/cuda one for NVIDIA's",
}
_LOADER_ADVICE = (
    "install Vulkan's loader: libvulkan1 on Debian and Ubuntu, vulkan-loader on Fedora; drivers for Windows bring it"
)
_VULKAN_DRIVER_ADVICE = "install your card's driver: mesa-vulkan-drivers on Linux for AMD and Intel, NVIDIA's own for NVIDIA"
_DRIVER_ADVICE = "install NVIDIA's driver for your card, load its kernel module, and run `edgeembed devices` again"


def why_no_gpu(
    inventory: Inventory, device: str, *, libraries: Sequence[Path], environ: Mapping[str, str] = os.environ
) -> list[NoGpuReason]:
    """Return why no GPU can be used; nothing when one can. libraries: from `gpu_libraries`."""
    word, number = split_setting(device)
    if word == "cpu":
        return [NoGpuReason(cause="device_is_cpu", text="the setting device is cpu", advice="set device to auto")]
    if chosen_gpus(inventory, device):
        return []
    if inventory.problem:
        return [NoGpuReason(cause="inspection_failed", text=inventory.problem)]
    names = {backend_of(library) for library in libraries} | {backend_of(Path(each.file)) for each in inventory.modules}
    reasons = []
    if not names or (word != "auto" and word not in names and not (word == "cuda" and names & {"hip", "musa"})):
        reasons.append(_no_build(inventory.nvidia, word))
    reasons += [
        NoGpuReason(
            cause="broken_module",
            text=f"{module.file} cannot be loaded: {module.problem}",
            advice=_LOADER_ADVICE if "libvulkan" in module.problem else None,
        )
        for module in inventory.modules
        if module.problem
    ]
    if "cuda" in names and word in ("auto", "cuda") and not chosen_gpus(inventory, "cuda"):
        reasons += _why_no_cuda(inventory, environ)
    if "vulkan" in names and word in ("auto", "vulkan") and not chosen_gpus(inventory, "vulkan"):
        reasons += _why_no_vulkan(inventory.vulkan, environ)
    if not reasons:
        logged = f" ({'; '.join(inventory.messages)})" if inventory.messages else ""
        which = f"{word} device number {number}" if number is not None else f"{'GPU' if word == 'auto' else word} device"
        reasons.append(NoGpuReason(cause="no_such_device", text=f"llama.cpp finds no {which}{logged}"))
    return reasons


def _no_build(nvidia: NvidiaFacts, word: str) -> NoGpuReason:
    missing = {"auto": "GPUs", "cuda": "NVIDIA GPUs", "vulkan": "Vulkan", "metal": "Metal"}[word]
    text = f"this build of llama.cpp has no kernels for {missing}"
    if nvidia.cards:
        text += f"; NVIDIA cards in this machine: {nvidia.cards}"
    return NoGpuReason(cause="no_build", text=text, advice=_BUILD_ADVICE.get(word))


def _why_no_cuda(inventory: Inventory, environ: Mapping[str, str]) -> list[NoGpuReason]:
    facts, logged = inventory.nvidia, "; ".join(inventory.messages)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles", "none", "void"):
        text = f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all GPUs"
        return [NoGpuReason(cause="hidden", text=text, advice="unset the variable, or set it to the number of a card")]
    if facts.cuda is None:
        if facts.cards == 0:
            return [NoGpuReason(cause="no_card", text="there is no NVIDIA card in this machine")]
        text = "NVIDIA's driver is not installed: its library is missing"
        if facts.driver:
            text = f"the library of NVIDIA's driver {facts.driver} is missing, although its kernel module is loaded"
        return [NoGpuReason(cause="no_driver", text=text, advice=_DRIVER_ADVICE)]
    if cause_in_foreign_text(logged) == "driver_too_old":
        text = (
            f"NVIDIA's driver {facts.driver or ''} is too old for this build: it supports CUDA up to {facts.cuda} ({logged})"
        )
        return [
            NoGpuReason(cause="driver_too_old", text=text, advice="install a newer driver, or a build with an older CUDA")
        ]
    if facts.init_error is not None:
        meaning = _INIT_ERRORS.get(facts.init_error, logged)
        text = f"NVIDIA's driver {facts.driver or ''} reports error {facts.init_error}: {meaning}"
        return [NoGpuReason(cause="driver_fails", text=text)]
    return []


_INIT_ERRORS = {
    100: "it finds no card",
    304: "no permission to open the card (/dev/nvidia*)",
    802: "the card is not ready yet; machines with NVSwitch need a running fabric manager",
    803: "its library and its kernel module have different versions; restart the machine",
    804: "its CUDA compatibility library does not support this card",
    999: "unknown error; see the kernel log",
}
"""What cuInit's results mean (CUDA driver API, CUresult)."""


def _why_no_vulkan(facts: VulkanFacts, environ: Mapping[str, str]) -> list[NoGpuReason]:
    visible = environ.get(VISIBLE_VARIABLE)
    if facts.devices is None:
        if facts.error is None:
            return []  # without the loader's library the module cannot be loaded, which is a reason of its own
        version = f" {facts.loader}" if facts.loader else ""
        text = f"Vulkan's loader{version} reports error {facts.error}"
        return [NoGpuReason(cause="driver_fails", text=text)]
    if not facts.devices:
        return [NoGpuReason(cause="no_driver", text="no Vulkan driver finds a card", advice=_VULKAN_DRIVER_ADVICE)]
    if visible is not None and len(facts.software) < len(facts.devices):
        text = f"{VISIBLE_VARIABLE} is {visible!r}; Vulkan has the devices 0 to {len(facts.devices) - 1}"
        return [NoGpuReason(cause="hidden", text=text, advice="unset the variable, or set it to the number of a card")]
    if facts.software:
        names = " and ".join(sorted(facts.software))
        text = f"the Vulkan driver {names} computes on the processor, more slowly than llama.cpp's own kernels for it"
        return [NoGpuReason(cause="software_only", text=text, advice="to test with it, set device to vulkan:0")]
    return []


def backend_of(library: Path) -> str:
    """Return the backend of a library or module, as in GPU_BACKENDS."""
    return library.name.removeprefix("lib").removeprefix("ggml-").partition(".")[0]
