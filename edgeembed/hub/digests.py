"""A cache of files' SHA-256, and of whether they passed `gguf.check`."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeembed import __version__
from edgeembed.common.files import FileIdentity, describe_os_error, read_json_or_warn, write_json
from edgeembed.errors import HubError, UnknownModelError

log = logging.getLogger(__name__)

_CHUNK = 4 * 2**20


class Identified(NamedTuple):
    """The SHA-256 of a file, in hex, and the identity that the file had before and after it was read."""

    sha256: str
    file: FileIdentity


class _Digest(msgspec.Struct, frozen=True):
    sha256: str
    file: FileIdentity | None = None
    """None in an entry of an earlier version, which knew less about the file."""
    checked_by: str | None = None
    """Version whose check the file passed; a newer one may check more."""


class Digests:
    """The cache, a JSON file. An entry holds while its file has the same `FileIdentity`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, path: Path, progress: Callable[[int, int], None] | None = None, *, read_again: bool = False) -> Identified:
        """Return the SHA-256 and the identity of a file; it is read only if it may have changed since it was last read.

        progress: called with bytes done and bytes in total. read_again: read it in any case, as a failing disk changes
        neither size nor time. Raises UnknownModelError if there is no such file, HubError if it cannot be read.
        """
        path = path.absolute()
        try:
            before = FileIdentity.of(path)
            known = self._unchanged(path, before)
            if known and not read_again:
                return known
            time.sleep(before.unsettled_seconds)
            sha256 = sha256_of(path, progress)
            after = FileIdentity.of(path)
        except FileNotFoundError as error:
            raise UnknownModelError(f"there is no file {path}") from error
        except OSError as error:
            raise HubError(f"cannot read {describe_os_error(error, path)}") from error
        if before != after:
            raise HubError(f"{path} changed while it was read; wait until it is complete and try again")
        found = Identified(sha256, before)
        if found != known:
            self.remember(path, found)
        return found

    def last(self, path: Path) -> Identified | None:
        """Return what was found when a file was last read, whatever it is now; None if it never was."""
        entry = self._read().get(str(path.absolute()))
        return Identified(entry.sha256, entry.file) if entry and entry.file else None

    def remember(self, path: Path, found: Identified, *, sound: bool = False) -> None:
        """Save the digest of a file and whether it passed the check; drop entries of files that are gone."""
        entries = {name: digest for name, digest in self._read().items() if Path(name).exists()}
        entries[str(path.absolute())] = _Digest(found.sha256, found.file, __version__ if sound else None)
        try:
            write_json(self._path, entries)
        except OSError as error:
            log.warning("cannot write %s, so %s will be hashed again: %s", self._path, path.name, error)

    def is_sound(self, path: Path, found: Identified) -> bool:
        """Return whether this very file passed the check of this version before."""
        entry = self._read().get(str(path.absolute()))
        return entry is not None and (entry.sha256, entry.file, entry.checked_by) == (*found, __version__)

    def _unchanged(self, path: Path, file: FileIdentity) -> Identified | None:
        found = self.last(path)
        return found if found and found.file == file else None

    def _read(self) -> dict[str, _Digest]:
        return read_json_or_warn(self._path, dict[str, _Digest], "files are hashed again") or {}


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hex, in constant memory; `progress` gets bytes done and bytes in total."""
    total = path.stat().st_size
    done = 0
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()
