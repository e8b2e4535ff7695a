"""Checks of a download: disk space before it, the checksum after it."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeembed.common.progress import Progress, ReportLine, human_size
from edgeembed.errors import ChecksumError, HubError
from edgeembed.hub.digests import sha256_of

_RESERVE = 64 * 2**20


def require_space(folder: Path, needed: int) -> None:
    """Raise HubError unless the disk of `folder` has `needed` bytes and a reserve of 64 MiB free."""
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE:
        raise HubError(
            f"not enough disk space in {folder}: {human_size(needed)} are needed, {human_size(free)} are free. "
            "Free some space, or move edgeembed's folders to another disk with EDGEEMBED_HOME."
        )


def require_sha256(path: Path, promised: str, origin: str, report: ReportLine) -> str:
    """Return the SHA-256 of a file that came from `origin`. Raises ChecksumError if it is not `promised`."""
    if not path.is_file():
        raise HubError(f"{origin} contains no {path.name}")
    with Progress(report, f"checking {path.name}") as progress:
        found = sha256_of(path, progress.update)
    if found != promised:
        raise ChecksumError(wrong_file(origin, path.name, f"has the SHA-256 {found}, expected {promised}"))
    return found


def wrong_file(origin: str, name: str, why: str) -> str:
    """Return the error message about a wrong file."""
    return (
        f"{origin}: {name} {why}. The file was damaged in transit or is not the right one; it was deleted and nothing was "
        "installed. Try again; if the error persists, a proxy or mirror serves another file."
    )
