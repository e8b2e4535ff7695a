"""Which devices llama.cpp can compute on here, and why a GPU is not among them.

The daemon never loads llama.cpp: a process of its own looks (`edgeembed.engine.llama.devices`), and one that dies of a
broken driver says something, too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.gpu.nvidia import NvidiaFacts

LOOK_COMMAND = (sys.executable, "-P", "-m", "edgeembed.engine.llama.devices")
LOOK_SECONDS = 20.0
"""What a look may take: the first one after the machine's start wakes the card up."""
GPU_BACKENDS = ("cuda", "hip", "musa", "vulkan", "metal", "sycl", "opencl", "cann")
"""Backends of ggml that compute on graphics cards, as their modules are named."""
LIBRARY_VARIABLE = "LLAMA_CPP_LIB_PATH"
"""llama-cpp-python's own: another folder with libllama."""

Kind = Literal["cpu", "gpu", "igpu", "accel", "other"]
NoGpuCause = Literal[
    "device_is_cpu", "hidden", "no_build", "broken_module", "no_card", "no_driver", "driver_too_old", "driver_fails",
    "no_such_device", "look_failed",
]  # fmt: skip


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Something that computes. Memory in bytes; 0 where the backend does not say."""

    name: str
    """As ggml names it, such as CUDA0."""
    description: str
    backend: str
    """As ggml names it, such as CUDA, MTL or Vulkan."""
    kind: Kind
    memory_free: int = 0
    memory_total: int = 0
    id: str | None = None
    """Place on the PCI bus."""

    @property
    def is_gpu(self) -> bool:
        return self.kind in ("gpu", "igpu")


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """A backend in a file of its own, and why it cannot be loaded."""

    file: str
    problem: str | None = None


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a look found."""

    backends: tuple[str, ...] = ()
    """Those that were loaded, as ggml names them."""
    devices: tuple[Device, ...] = ()
    modules: tuple[Module, ...] = ()
    """Modules for graphics cards that lie beside llama.cpp."""
    nvidia: NvidiaFacts = NvidiaFacts()
    said: tuple[str, ...] = ()
    """Warnings and errors of llama.cpp."""
    problem: str | None = None
    """Why there is nothing else in here."""
    problem_cause: Cause = "other"

    @property
    def gpus(self) -> tuple[Device, ...]:
        """Graphics cards; those inside a processor only where there is no other one."""
        cards = tuple(device for device in self.devices if device.kind == "gpu")
        return cards or tuple(device for device in self.devices if device.kind == "igpu")


class NoGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a GPU is not used."""

    cause: NoGpuCause
    text: str
    advice: str | None = None


def library_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Give the folder of llama.cpp's libraries; None when llama-cpp-python is not installed. Nothing of it is imported."""
    if other := environ.get(LIBRARY_VARIABLE):
        return Path(other)
    found = importlib.util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / "lib"


def gpu_libraries(folder: Path | None) -> list[Path]:
    """Give the libraries of backends for graphics cards, whether modules or linked ones; none where the build has none."""
    if folder is None:
        return []
    pattern = re.compile(rf"(?:lib)?ggml-(?:{'|'.join(GPU_BACKENDS)})\.(?:so|dylib|dll)")
    return sorted(file for file in folder.glob("*ggml-*") if pattern.fullmatch(file.name))


def take_inventory(
    *, command: Sequence[str] = LOOK_COMMAND, timeout: float = LOOK_SECONDS, environ: Mapping[str, str] | None = None
) -> Inventory:
    """Look, in a process of its own; one that hangs or dies gives an inventory with its problem."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
            env={**(os.environ if environ is None else environ), "GGML_NO_BACKTRACE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        problem = f"looking for devices gave no answer for {timeout:g} s: a driver may hang"
        return Inventory(problem=problem, problem_cause="hang")
    except OSError as error:
        return Inventory(problem=f"a process that looks for devices cannot be started: {error}")
    try:
        return msgspec.json.decode(done.stdout, type=Inventory)
    except msgspec.DecodeError:
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "it said nothing")
        problem = f"looking for devices {_end(done.returncode)}: {last}"
        return Inventory(problem=problem, problem_cause=cause_in_foreign_text(last) or "crash")


def _end(code: int) -> str:
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended with exit status {code}"


# --- which of them ----------------------------------------------------------------------------------------------------

_BACKEND_OF = {"cuda": ("CUDA", "ROCm", "HIP", "MUSA"), "vulkan": ("Vulkan",), "metal": ("MTL", "Metal")}
"""ggml's names of the backends that a word of the setting means; AMD's cards run CUDA's code under another name."""


def split_setting(device: str) -> tuple[str, int | None]:
    """Take "cuda:1" apart into the word and the number."""
    word, _, number = device.partition(":")
    return word, int(number) if number else None


def chosen_gpus(inventory: Inventory, device: str) -> tuple[Device, ...]:
    """Give the GPUs that the setting allows, best first as llama.cpp has them; none for "cpu"."""
    word, number = split_setting(device)
    if word == "cpu":
        return ()
    if word == "auto":
        # One card seen by two backends is one card: those of the backend that comes first.
        first = next((gpu.backend for gpu in inventory.gpus), None)
        return tuple(gpu for gpu in inventory.gpus if gpu.backend == first)
    named = tuple(found for found in inventory.devices if found.is_gpu and found.backend in _BACKEND_OF[word])
    if number is None:
        return named
    return named[number : number + 1]


# --- why not ----------------------------------------------------------------------------------------------------------

WHEEL_ADVICE = "the recipe in installers/cuda of the source tree builds llama-cpp-python with CUDA, beside the CPU's kernels"
_DRIVER_ADVICE = "install NVIDIA's driver for your card and load its kernel module, then `edgeembed devices` again"


def why_no_gpu(
    inventory: Inventory, device: str, *, libraries: Sequence[Path], environ: Mapping[str, str] = os.environ
) -> list[NoGpu]:
    """Say why no GPU is used; an empty list when one can be. libraries: what `gpu_libraries` gives."""
    word, number = split_setting(device)
    if word == "cpu":
        return [NoGpu(cause="device_is_cpu", text="the setting device is cpu", advice="set device to auto")]
    if chosen_gpus(inventory, device):
        return []
    if inventory.problem:
        return [NoGpu(cause="look_failed", text=inventory.problem)]
    names = {_backend_of(library) for library in libraries} | {_backend_of(Path(each.file)) for each in inventory.modules}
    reasons = []
    if not names or (word != "auto" and word not in names and not (word == "cuda" and names & {"hip", "musa"})):
        reasons.append(_no_build(inventory.nvidia, word))
    reasons += [
        NoGpu(cause="broken_module", text=f"{module.file} cannot be loaded: {module.problem}")
        for module in inventory.modules
        if module.problem
    ]
    if "cuda" in names and word in ("auto", "cuda") and not chosen_gpus(inventory, "cuda"):
        reasons += _why_no_cuda(inventory, environ)
    if not reasons:
        said = f" ({'; '.join(inventory.said)})" if inventory.said else ""
        which = f"{word} device number {number}" if number is not None else f"{'GPU' if word == 'auto' else word} device"
        reasons.append(NoGpu(cause="no_such_device", text=f"llama.cpp finds no {which}{said}"))
    return reasons


def _no_build(nvidia: NvidiaFacts, word: str) -> NoGpu:
    kernels = {"auto": "processors alone", "cuda": "no NVIDIA GPU", "vulkan": "no Vulkan", "metal": "no Metal"}[word]
    text = f"this build of llama.cpp has kernels for {kernels}"
    if nvidia.cards:
        text += f"; NVIDIA cards in this machine: {nvidia.cards}"
    return NoGpu(cause="no_build", text=text, advice=WHEEL_ADVICE if word in ("auto", "cuda") else None)


def _why_no_cuda(inventory: Inventory, environ: Mapping[str, str]) -> list[NoGpu]:
    facts, said = inventory.nvidia, "; ".join(inventory.said)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles", "none", "void"):
        text = f"CUDA_VISIBLE_DEVICES is {visible!r}, so that no program sees a GPU"
        return [NoGpu(cause="hidden", text=text, advice="take the variable away, or name a card in it")]
    if facts.cuda is None:
        if facts.cards == 0:
            return [NoGpu(cause="no_card", text="there is no NVIDIA card in this machine")]
        text = "there is no NVIDIA driver: its library is missing"
        if facts.driver:
            text = f"the library of NVIDIA's driver {facts.driver} is missing, although its kernel module is loaded"
        return [NoGpu(cause="no_driver", text=text, advice=_DRIVER_ADVICE)]
    if cause_in_foreign_text(said) == "driver_too_old":
        text = f"NVIDIA's driver {facts.driver or ''} is too old for this build: it runs CUDA {facts.cuda} at most ({said})"
        return [NoGpu(cause="driver_too_old", text=text, advice="a newer driver, or a build with an older CUDA, helps")]
    if facts.init_error is not None:
        meaning = _INIT_ERRORS.get(facts.init_error, said)
        text = f"NVIDIA's driver {facts.driver or ''} gives error {facts.init_error}: {meaning}"
        return [NoGpu(cause="driver_fails", text=text)]
    return []


_INIT_ERRORS = {
    100: "it sees no card",
    304: "this user may not open the card (/dev/nvidia*)",
    802: "the card is not ready yet; on machines with NVSwitch its fabric manager has to run",
    803: "its library is of another version than its kernel module; restart the machine",
    804: "its library for newer CUDA does not go with this card",
    999: "an unknown error; the kernel's log may say more",
}
"""Of cuInit (CUDA driver API, CUresult)."""


def _backend_of(library: Path) -> str:
    return library.name.removeprefix("lib").removeprefix("ggml-").partition(".")[0]
