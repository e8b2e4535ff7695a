"""What is remembered of files: their SHA-256, and that they passed the check of `gguf_check`."""

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
    """Version whose check the file passed: a newer one may know more."""


class Digests:
    """The memory, one JSON file. A file with another size or modification time is another file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, path: Path, progress: Callable[[int, int], None] | None = None) -> str:
        """Give the SHA-256 of a file in hex; it is read once per path, size and modification time.

        `progress` is called with bytes done and bytes in all. Raises UnknownModelError or HubError when the file
        cannot be read.
        """
        path = path.absolute()
        try:
            before = path.stat()
            if known := self._remembered(path):
                return known.sha256
            sha256 = sha256_of(path, progress)
            after = path.stat()
        except FileNotFoundError as error:
            raise UnknownModelError(f"there is no file {path}") from error
        except OSError as error:
            raise HubError(f"cannot read {path}: {error.strerror or error}") from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise HubError(f"{path} changed while it was read; is something still writing it?")
        self.remember(path, sha256)
        return sha256

    def remember(self, path: Path, sha256: str, *, sound: bool = False) -> None:
        """Write the digest of a file down, and whether it passed the check; forget files that are gone."""
        status = path.stat()
        known = {name: digest for name, digest in self._known().items() if Path(name).exists()}
        known[str(path.absolute())] = _Digest(status.st_size, status.st_mtime_ns, sha256, __version__ if sound else None)
        try:
            write_json(self._path, known)
        except OSError as error:
            log.warning("cannot write %s, %s will be read again: %s", self._path, path.name, error)

    def is_sound(self, path: Path, sha256: str) -> bool:
        """Say whether this very file passed the check of this version before."""
        known = self._remembered(path.absolute())
        return known is not None and known.sha256 == sha256 and known.checked_by == __version__

    def _remembered(self, path: Path) -> _Digest | None:
        status = path.stat()
        known = self._known().get(str(path))
        return known if known and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns) else None

    def _known(self) -> dict[str, _Digest]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Digest])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("cannot read %s, files are read again: %s", self._path, error)
            return {}


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Hash a file of any size with constant memory; `progress` gets bytes done and bytes in all."""
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
