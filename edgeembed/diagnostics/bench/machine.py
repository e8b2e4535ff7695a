"""Describes the machine of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from edgeembed.engine.machine import usable_threads


def machine_facts() -> dict[str, str | int]:
    """Return processor, number of CPUs and of those usable by this process, memory in bytes, system and Python."""
    return {
        "processor": processor_name(),
        "processors": os.cpu_count() or 1,
        "processors_usable": usable_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def busy_share() -> float:
    """Return the share of the CPU time used by other programs during half a second, from 0 to 1."""
    return psutil.cpu_percent(interval=0.5) / 100


def processor_name() -> str:
    """Return the processor's name as its maker writes it, or the architecture if it is unknown."""
    found = ""
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    elif sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            found = str(winreg.QueryValueEx(key, "ProcessorNameString")[0])
    elif (info := Path("/proc/cpuinfo")).exists():
        names = (line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name"))
        found = next(names, "")
    return found.strip() or platform.processor() or platform.machine()
