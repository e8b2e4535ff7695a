"""The device ladder: ways to run a model from the fastest to the safest, and which one held last time.

Rungs for GPUs go in front of the CPU's when they come.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec

from edgeembed.engine import kernels
from edgeembed.engine.protocol import RungFall

log = logging.getLogger(__name__)

CPU_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Rung:
    """One way to run a model."""

    name: str
    extra_buffers: bool
    description: str
    oldest_kernels: bool = False


CPU_BEST = Rung("cpu", True, "processor, fastest kernels (repacked weights, AMX where there is one)")
CPU_PLAIN = Rung("cpu-plain", False, "processor, plain kernels")

CPU_OLDEST = Rung("cpu-oldest", False, "processor, the oldest kernels of a build for many processors", oldest_kernels=True)

CPU_LADDER = (CPU_BEST, CPU_PLAIN)
PORTABLE_LADDER = (*CPU_LADDER, CPU_OLDEST)
"""Where the build has a module for each generation of processors: the one that was chosen may be wrong about this one."""


def cpu_ladder() -> tuple[Rung, ...]:
    """Give the rungs that the installed build of llama.cpp has."""
    try:
        files = distribution("llama-cpp-python").files or ()
    except PackageNotFoundError:
        files = ()
    return PORTABLE_LADDER if any("ggml-cpu-" in file.name for file in files) else CPU_LADDER


class Ladder:
    """Where on the ladder one model stands, and why it does not stand higher.

    Falls while loading are kept in `memory`, so that the next start begins on the rung that worked; falls in the middle of
    work last as long as the daemon, because a single text can cause them.
    """

    def __init__(self, rungs: tuple[Rung, ...] | None = None, memory: LadderMemory | None = None) -> None:
        """rungs: best first; those of the installed build when there are none."""
        self._rungs = rungs = rungs or cpu_ladder()
        self._memory = memory
        self._falls: list[RungFall] = [
            fall for fall in (memory.recall() if memory else []) if fall.rung in {rung.name for rung in rungs[:-1]}
        ]
        self._passing_falls: list[RungFall] = []

    @property
    def rung(self) -> Rung:
        """The highest rung that has not failed; the last one when all have."""
        failed = {fall.rung for fall in self.falls}
        return next((rung for rung in self._rungs if rung.name not in failed), self._rungs[-1])

    @property
    def falls(self) -> list[RungFall]:
        """What did not hold, in the order in which it failed."""
        return [*self._falls, *self._passing_falls]

    @property
    def exhausted(self) -> bool:
        """Whether every rung has failed."""
        failed = {fall.rung for fall in self.falls}
        return all(rung.name in failed for rung in self._rungs)

    def fall(self, reason: str, *, passing: bool) -> None:
        """Leave the current rung. `passing`: forget it when the daemon ends, or at `forgive`."""
        fall = RungFall(rung=self.rung.name, reason=reason, at=time.time())
        (self._passing_falls if passing else self._falls).append(fall)

    def forgive(self) -> None:
        """Take back the falls in the middle of work: their cause is known, and it was not the rung."""
        self._passing_falls.clear()

    def reset(self) -> None:
        """Begin again on the highest rung."""
        self._falls.clear()
        self._passing_falls.clear()

    def remember(self) -> None:
        """Keep the current rung's place: call it when the rung has shown that it works."""
        if self._memory:
            self._memory.keep([fall for fall in self._falls if fall.rung != self.rung.name])


class LadderMemory:
    """A small file that remembers, per machine, llama.cpp build and model, which rungs failed and why."""

    def __init__(self, file: Path, model_digest: str) -> None:
        self._file = file
        self._key = f"{machine_fingerprint()} {build_fingerprint()} {model_digest[:16]}"

    def recall(self) -> list[RungFall]:
        """Give the falls kept for this machine, build and model; an unreadable file holds none."""
        try:
            return msgspec.convert(self._load().get(self._key, []), list[RungFall])
        except msgspec.ValidationError:
            return []

    def keep(self, falls: list[RungFall]) -> None:
        """Replace what is kept. A folder that cannot be written costs the memory, not the daemon."""
        if falls == self.recall():
            return
        everything = self._load()
        if falls:
            everything[self._key] = msgspec.to_builtins(falls)
        else:
            everything.pop(self._key, None)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._file.parent, prefix=".ladder-", suffix=".tmp", delete=False
            ) as file:
                json.dump(everything, file, indent=1)
            Path(file.name).replace(self._file)
        except OSError as error:
            log.warning("cannot remember which kernels work in %s: %s", self._file, error)

    def _load(self) -> dict[str, object]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s is not readable and is ignored: %s", self._file, error)
            return {}
        return found if isinstance(found, dict) else {}


def machine_fingerprint() -> str:
    """Give a short name of this processor: a home folder may be used from several machines."""
    facts = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "flags", "Features", "CPU part")):
                facts.append(line)
            elif not line:
                break  # one processor's block is enough
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def build_fingerprint() -> str:
    """Give the version of llama-cpp-python, and digests of the very build and of our kernels: a repaired one gets a new chance.

    The daemon must not import the library, so this reads the digests that the installer recorded.
    """
    try:
        found = distribution("llama-cpp-python")
    except PackageNotFoundError:
        return "none"
    record = found.read_text("RECORD") or ""
    return f"{found.version}-{hashlib.sha256(record.encode()).hexdigest()[:12]}-{kernels.fingerprint()}"


def usable_threads() -> int:
    """Give the number of processors that this process may use: affinity, and a container's share (cgroup v2 cpu.max)."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA_FILE.read_text(encoding="ascii").split()
        if quota != "max":
            found = min(found, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no container, or one that says nothing
    return max(1, found)
