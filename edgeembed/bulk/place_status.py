"""What stores say of a file or folder without reading it: its size, and what differs after a change."""

from __future__ import annotations

import contextlib
import os
import stat
from datetime import datetime
from typing import Any, Literal, NamedTuple


class PlaceStatus(NamedTuple):
    """What a store says of a place. size: in bytes; None where it does not say. version: differs after every change, as far
    as the store can tell in a list. ranges: whether reading can begin anywhere. etag: of the content of an S3 object, which
    differs after every change; lists have none.
    """

    kind: Literal["file", "folder"]
    size: int | None = None
    version: str = ""
    ranges: bool = True
    etag: str = ""

    def versions(self) -> list[str]:
        """Return strings that differ after every change, the most exact one first."""
        listed = f"{self.size} {self.version}"
        return [f"{listed} {self.etag}", listed] if self.etag else [listed]


def local_status(found: os.stat_result) -> PlaceStatus:
    """Return what the system says of a local path."""
    return PlaceStatus("folder" if stat.S_ISDIR(found.st_mode) else "file", found.st_size, str(found.st_mtime_ns))


def arrow_status(entry: Any, scheme: str) -> PlaceStatus | None:
    """Return what a file system of pyarrow says of a place. entry: of a list, or of the place alone."""
    if entry.type.name == "NotFound":
        return None
    if entry.type.name == "Directory":
        return PlaceStatus("folder")
    # S3 says seconds of one object, but some servers milliseconds in a list.
    changed = entry.mtime_ns // 10**9 if scheme == "s3" and entry.mtime_ns else entry.mtime_ns
    return PlaceStatus("file", entry.size, str(changed or ""))


def s3_status(system: Any, path: str) -> PlaceStatus | None:
    """Return what S3 says of a place, with its ETag, by the one request that pyarrow's `get_file_info` makes as well."""
    if "/" in path:  # and no bucket
        with contextlib.suppress(FileNotFoundError), system.open_input_file(path) as file:
            said = file.metadata() or {}
            if "Last-Modified" in said and file.size():  # an empty object may stand for a folder
                changed = datetime.fromisoformat(said["Last-Modified"].decode())
                return PlaceStatus("file", file.size(), str(int(changed.timestamp())), True, etag_of(file))
    return arrow_status(system.get_file_info(path), "s3")


def etag_of(file: Any) -> str:
    """Return the ETag of an S3 object that pyarrow has opened; empty if it is another file."""
    return str((file.metadata() or {}).get("ETag", b""), "ascii", "replace")


def hub_status(entry: dict[str, Any]) -> PlaceStatus:
    """Return what a model hub says of a place."""
    if entry["type"] == "directory":
        return PlaceStatus("folder")
    version = entry.get("blob_id") or entry.get("xet_hash") or entry.get("mtime") or ""
    return PlaceStatus("file", entry["size"], str(version))
