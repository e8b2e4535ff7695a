"""This machine: its processors, and fingerprints of it and of the installed build."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from pathlib import Path

from edgeembed.common import cgroups
from edgeembed.engine import kernels
from edgeembed.engine.llama_package import find_distribution


def machine_fingerprint() -> str:
    """Return a short fingerprint of this processor, because a home folder may be used from several machines."""
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
    """Return the version of llama-cpp-python with digests of the build and of our kernels, which change with a repaired one.

    The daemon must not import the library, so the digests are those that the installer recorded.
    """
    found = find_distribution()
    if found is None:
        return "none"
    record = found.read_text("RECORD") or ""
    return f"{found.version}-{hashlib.sha256(record.encode()).hexdigest()[:12]}-{kernels.fingerprint()}"


def usable_threads() -> int:
    """Return the number of processors that this process may use, by affinity and by the quotas of its cgroups."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.processors()
    if quota is not None:
        found = min(found, math.ceil(quota))
    return max(1, found)
