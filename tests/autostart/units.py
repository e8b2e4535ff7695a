"""Checks of units by systemd's tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SINCE_254 = ("'RestartSteps'", "'RestartMaxDelaySec'")


def complaints(unit: Path, *options: str) -> list[str]:
    """Return the messages of `systemd-analyze verify` about a unit, except about keys newer than this systemd."""
    command = ["systemd-analyze", "verify", "--man=no", *options, str(unit)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(unit.parent)}  # --user requires it
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    found = [line for line in lines if not ("Unknown key" in line and any(key in line for key in SINCE_254))]
    return found if found or done.returncode == 0 else [done.stdout + done.stderr]
