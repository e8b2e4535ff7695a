"""The sandbox around a worker on Linux: it limits what a model file that takes over llama.cpp can do.

Two independent parts of the kernel enforce it: Landlock decides which files may be opened, a seccomp filter which system
calls may be made. Both hold until the process ends. They are set up before the model file is opened, in two steps, because
drivers of graphics cards start threads and programs while they are loaded:

1. `restrict_files`, while the process has one thread,
2. `filter_calls`, when the libraries are loaded.

If the kernel, a container or the processor supports only one of them, that one is used; elsewhere there is no sandbox.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from edgeembed.engine.interface import SandboxInfo
from edgeembed.engine.sandbox import kernel, landlock, seccomp
from edgeembed.engine.sandbox.landlock import CHANGE, READ, Grant
from edgeembed.engine.sandbox.syscalls import Machine

_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo", "/usr/share/locale", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
    "/sys/devices/system", "/sys/kernel/mm", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom",
)  # fmt: skip
"""What the C library and others read: shared libraries, time zones, processors and memory of the machine."""


class Sandbox:
    """The sandbox of this process."""

    def __init__(self, model: Path, device: str = "cpu", *, enabled: bool = True, result: Path | None = None) -> None:
        """model: the file that may be read. device: as in WorkerOptions; drivers of graphics cards need more.

        result: a file that exists and is written.
        """
        self._model = model
        self._result = result
        self._device = device
        self._on_card = device != "cpu"
        self._machine = machine() if enabled else None
        self._landlock, self._seccomp = 0, False
        self._missing: list[str] = []
        if not enabled:
            self._missing.append("turned off in the settings")
        elif self._machine is None:
            self._missing.append(f"available on Linux only, on {' and '.join(get_args(Machine))}")

    @property
    def info(self) -> SandboxInfo:
        """What holds so far."""
        return SandboxInfo(landlock=self._landlock, seccomp=self._seccomp, words=self._words())

    def restrict_files(self, libraries: Iterable[Path]) -> None:
        """Restrict the files that can be opened. libraries: folders to read, besides those of Python and its packages."""
        if self._machine is None:
            return
        grants = card_grants(self._device, os.environ) if self._on_card else processor_grants(self._model, libraries)
        if self._result is not None:
            grants.append(Grant(self._result, READ | CHANGE))
        try:
            self._landlock = landlock.restrict(self._machine, grants, reading=not self._on_card)
        except landlock.UnavailableError as error:
            self._missing.append(str(error))

    def filter_calls(self) -> None:
        """Restrict the system calls of all threads."""
        if self._machine is None:
            return
        pid = os.getpid()
        if self._on_card:
            policy = seccomp.on_graphics_card(pid)
        else:
            policy = seccomp.on_processor(pid, os.environ, writes=self._result is not None)
        try:
            kernel.forbid_new_privileges()
            seccomp.install(policy, self._machine)
        except OSError as error:
            self._missing.append(f"seccomp: {error.strerror}")
        else:
            self._seccomp = True

    def _words(self) -> str:
        missing = "; ".join(self._missing)
        parts: list[str] = []
        if self._landlock:
            parts.append(f"Landlock (ABI {self._landlock})")
        if self._seccomp:
            parts.append("seccomp")
        if not parts:
            return f"none: {missing}"
        held: list[str] = []
        if self._seccomp:
            held.append("no network")
        elif self._landlock >= landlock.TCP_ABI:
            held.append("no TCP")
        held.append("no other programs")
        if not self._on_card:
            held.append("no files except the model and libraries" if self._landlock else "no writes")
        elif self._landlock:
            held.append("writes only to devices and the driver's caches")
        return f"{' and '.join(parts)}: {', '.join(held)}" + (f" ({missing})" if missing else "")


def machine() -> Machine | None:
    """Return the processor's architecture; None where there is no sandbox."""
    if sys.platform != "linux" or sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    found = platform.machine()
    return next((name for name in get_args(Machine) if name == found), None)


def processor_grants(model: Path, libraries: Iterable[Path]) -> list[Grant]:
    """Return what a worker on the processor may read: the model, Python, libraries and what they read. It writes nothing."""
    return [Grant(path, READ) for path in (model, *map(Path, _SYSTEM), *libraries, *_python())]


def card_grants(device: str, environment: Mapping[str, str]) -> list[Grant]:
    """Return what a worker on a graphics card may change: devices, and the caches in which drivers keep compiled kernels.

    Reading is not restricted: drivers read settings and libraries in too many places. Missing caches are created, because
    the driver cannot do so later.
    """
    home = Path(environment.get("HOME") or "/nonexistent")
    if device.startswith("CUDA"):
        caches = [Path(environment.get("CUDA_CACHE_PATH") or home / ".nv" / "ComputeCache")]
    else:
        cached = environment.get("XDG_CACHE_HOME")
        mesa = environment.get("MESA_SHADER_CACHE_DIR") or environment.get("MESA_GLSL_CACHE_DIR") or cached
        caches = [
            *(Path(mesa or _account_home() / ".cache") / name for name in ("mesa_shader_cache", "mesa_shader_cache_db")),
            Path(cached or home / ".cache") / "nvidia",
        ]
    for folder in caches:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    return [Grant(path, CHANGE) for path in (Path("/dev"), Path("/proc/self"), *caches)]


def _account_home() -> Path:
    """Return the user's home folder of the password database, where Mesa looks instead of in HOME."""
    import pwd  # absent on Windows

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def _python() -> Iterator[Path]:
    """Yield the folders of the standard library and of the packages that are imported."""
    for name in ("stdlib", "platstdlib"):
        yield Path(sysconfig.get_path(name))
    for name, module in list(sys.modules.items()):
        if "." not in name and (spec := getattr(module, "__spec__", None)) is not None:
            yield from map(Path, spec.submodule_search_locations or ([spec.origin] if spec.has_location else []))
