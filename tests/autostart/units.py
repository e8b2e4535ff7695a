"""Asking systemd's own tools about a unit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SINCE_254 = ("'RestartSteps'", "'RestartMaxDelaySec'")


def complaints(unit: Path, *options: str) -> list[str]:
    """Return what `systemd-analyze verify` says about a unit, but for keys that are newer than this systemd."""
    command = ["systemd-analyze", "verify", "--man=no", *options, str(unit)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(unit.parent)}  # --user wants one, even to read a file
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if unit.name in line]
    found = [line for line in lines if not ("Unknown key" in line and any(key in line for key in SINCE_254))]
    return found if found or said.returncode == 0 else [said.stdout + said.stderr]
