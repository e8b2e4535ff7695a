"""NVIDIA's driver and cards, as the kernel's files, the driver's own libraries and nvidia-smi report them.

`inspect` loads these libraries: call it in a separate process. Sources: the CUDA driver API (cuInit, cuDriverGetVersion)
and NVML (nvmlSystemGetDriverVersion).
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from edgeembed.engine.child_environment import child_environment

PROC_VERSION = Path("/proc/driver/nvidia/version")
PCI_DEVICES = Path("/sys/bus/pci/devices")
VENDOR = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI classes of VGA and of 3D controllers."""
SMI_SECONDS = 5.0
_DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NVML_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_MOST_VERSION_BYTES = 96


class NvidiaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """NVIDIA's driver and cards in this machine; None for what is unknown."""

    driver: str | None = None
    """Version of the driver, such as 580.65.06."""
    cuda: str | None = None
    """Newest CUDA that the driver can run, such as 13.0; None without the driver's library."""
    init_error: int | None = None
    """The error that cuInit returned: 100 for no device, 803 for a library and a kernel module of different versions."""
    cards: int | None = None
    """NVIDIA cards on the PCI bus; None where the bus cannot be seen."""


def inspect() -> NvidiaFacts:
    """Return what the kernel, the driver and nvidia-smi say; a fact that none of them has is None."""
    cuda, error = _driver_library()
    return NvidiaFacts(driver=_from_proc() or _from_nvml() or _from_smi(), cuda=cuda, init_error=error, cards=cards())


def version_in(text: str) -> str | None:
    """Return the driver's version from the text of /proc/driver/nvidia/version."""
    found = re.search(r"NVRM version:.*?\s(\d{3}\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def _from_proc() -> str | None:
    try:
        return version_in(PROC_VERSION.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _from_nvml() -> str | None:
    try:
        nvml = ctypes.CDLL(_NVML_LIBRARY)
        buffer = ctypes.create_string_buffer(_MOST_VERSION_BYTES)
        if nvml.nvmlInit_v2() != 0:
            return None
        try:
            failed = nvml.nvmlSystemGetDriverVersion(buffer, len(buffer))
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if failed else buffer.value.decode("ascii", "replace")


def _from_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=SMI_SECONDS, check=True,
            env=child_environment(),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.strip() for line in done.stdout.splitlines() if re.fullmatch(r"[\d.]+", line.strip())), None)


def _driver_library() -> tuple[str | None, int | None]:
    try:
        library = ctypes.CDLL(_DRIVER_LIBRARY)
        version = ctypes.c_int(0)
        if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None, None
        error = int(library.cuInit(0))
    except (OSError, AttributeError):
        return None, None
    return f"{version.value // 1000}.{version.value % 1000 // 10}", error or None


def cards() -> int | None:
    """Count the NVIDIA cards on the PCI bus; None where the bus cannot be seen."""
    try:
        devices = list(PCI_DEVICES.iterdir())
    except OSError:
        return None
    return sum(map(_is_card, devices))


def _is_card(device: Path) -> bool:
    try:
        vendor = (device / "vendor").read_text(encoding="ascii").strip()
        return vendor == VENDOR and (device / "class").read_text(encoding="ascii").startswith(DISPLAY_CLASSES)
    except OSError:
        return False
