"""The processes of shared engines."""

from __future__ import annotations

from pathlib import Path

import psutil


def engines_below(folder: Path) -> list[psutil.Process]:
    """Return the running engines whose socket is somewhere in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "edgeembed.bulk.engine_process" in (process.info["cmdline"] or []):
            try:
                if folder in Path(process.cwd()).parents:
                    found.append(process)
            except psutil.Error:
                continue
    return found
