"""The machine that computes, as far as an engine has to know it: its processors, and names for it and for this build."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edgeembed.engine import kernels

CPU_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


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
    """Give the version of llama-cpp-python, and digests of the build and of our kernels: a repaired one gets a new chance.

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
