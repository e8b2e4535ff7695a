"""What is checked around a download: room for it before, its bytes after."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeembed.common.progress import Progress, ReportLine, human_size
from edgeembed.errors import ChecksumError, HubError
from edgeembed.hub.digests import sha256_of

_RESERVE = 64 * 2**20


def require_space(folder: Path, needed: int) -> None:
    """Raise HubError when the disk of `folder` has not `needed` bytes and a reserve of 64 MiB free."""
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE:
        raise HubError(
            f"not enough disk space: {human_size(needed)} are needed in {folder} and {human_size(free)} are free. "
            "Make room, or move all of edgeembed's folders with EDGEEMBED_HOME."
        )


def require_sha256(path: Path, promised: str, origin: str, report: ReportLine) -> str:
    """Hash a file that came from `origin` and give its SHA-256; raise ChecksumError when it is not the promised one."""
    if not path.is_file():
        raise HubError(f"{origin}: there is no {path.name} in it")
    with Progress(report, f"checking {path.name}") as progress:
        found = sha256_of(path, progress.update)
    if found != promised:
        raise ChecksumError(wrong_file(origin, path.name, f"has the SHA-256 {found}, but {promised} is promised"))
    return found


def wrong_file(origin: str, name: str, why: str) -> str:
    """Write the message about a file that is not the promised one."""
    return (
        f"{origin}: {name} {why}. The file was damaged on the way or is not the right one; it was deleted and nothing was "
        "installed. Try again; if it stays so, something on the way (a proxy, a mirror) serves another file."
    )
