"""A cache of files' SHA-256, and of whether they passed `gguf.check`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeembed import __version__
from edgeembed.common.files import write_json
from edgeembed.errors import HubError, UnknownModelError

log = logging.getLogger(__name__)

_CHUNK = 4 * 2**20


class _Digest(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    sha256: str
    checked_by: str | None = None
    """Version whose check the file passed; a newer one may check more."""


class Digests:
    """The cache, a JSON file. An entry holds while size and modification time of its file are unchanged."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, path: Path, progress: Callable[[int, int], None] | None = None, *, read_again: bool = False) -> str:
        """Return the SHA-256 of a file in hex; it is read once per path, size and modification time.

        progress: called with bytes done and bytes in total. read_again: read it in any case, as a failing disk changes
        neither size nor time. Raises UnknownModelError if there is no such file, HubError if it cannot be read.
        """
        path = path.absolute()
        try:
            before = path.stat()
            entry = self._find(path)
            if entry and not read_again:
                return entry.sha256
            sha256 = sha256_of(path, progress)
            after = path.stat()
        except FileNotFoundError as error:
            raise UnknownModelError(f"there is no file {path}") from error
        except OSError as error:
            raise HubError(f"cannot read {path}: {error.strerror or error}") from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise HubError(f"{path} changed while it was read; wait until it is complete and try again")
        if entry is None or entry.sha256 != sha256:
            self.remember(path, sha256)
        return sha256

    def remember(self, path: Path, sha256: str, *, sound: bool = False) -> None:
        """Save the digest of a file and whether it passed the check; drop entries of files that are gone."""
        status = path.stat()
        entries = {name: digest for name, digest in self._read().items() if Path(name).exists()}
        entries[str(path.absolute())] = _Digest(status.st_size, status.st_mtime_ns, sha256, __version__ if sound else None)
        try:
            write_json(self._path, entries)
        except OSError as error:
            log.warning("cannot write %s, so %s will be hashed again: %s", self._path, path.name, error)

    def remembered(self, path: Path) -> str | None:
        """Return the remembered SHA-256 of a file that has not changed since; None if it has to be read."""
        entry = self._find(path.absolute())
        return entry.sha256 if entry else None

    def is_sound(self, path: Path, sha256: str) -> bool:
        """Return whether this file, unchanged, passed the check of this version before."""
        entry = self._find(path.absolute())
        return entry is not None and entry.sha256 == sha256 and entry.checked_by == __version__

    def _find(self, path: Path) -> _Digest | None:
        status = path.stat()
        entry = self._read().get(str(path))
        return entry if entry and (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns) else None

    def _read(self) -> dict[str, _Digest]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Digest])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("cannot read %s, so files will be hashed again: %s", self._path, error)
            return {}


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
