"""Replacing files in one step, telling whether a file was written to or replaced, listing what others write meanwhile."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

log = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

UNREADABLE_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON that it cannot read: of another syntax or type, not UTF-8, or too deep."""

CLOCK_NS = 20_000_000
"""Longest tick of the clock from which a system takes the times of files (Linux: 10 ms)."""
WHOLE_SECONDS_NS = 2_000_000_000
"""The same where a file system keeps whole seconds, or every other one (FAT)."""


class FileIdentity(msgspec.Struct, frozen=True, array_like=True):
    """What the system says about a file. It differs after every write to the file, and for every other file.

    The change time cannot be set by programs, so it shows writes after which `touch` or `cp -p` restored the modification
    time. Windows has none.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Return the identity of the file at a path, behind links. Raises OSError."""
        status = path.stat()
        changed = status.st_mtime_ns if sys.platform == "win32" else status.st_ctime_ns
        return cls(status.st_dev & _63_BITS, status.st_ino & _63_BITS, status.st_size, status.st_mtime_ns, changed)

    @property
    def unsettled_seconds(self) -> float:
        """How long a further write might still leave the same times, as it would fall into the same tick of the clock."""
        tick = CLOCK_NS if self.ctime_ns % 1_000_000_000 else WHOLE_SECONDS_NS
        age = time.time_ns() - self.ctime_ns
        return (tick - max(age, 0)) / 1e9 if -tick < age < tick else 0.0


_63_BITS = 2**63 - 1
"""What JSON and msgpack take; Windows may number files with 128 bits."""


def expanded(name: str) -> Path:
    """Return the absolute path that a user named; ~ and ~USER stand for home folders, if there are such users."""
    return Path(os.path.expanduser(name)).absolute()  # noqa: PTH111 - Path.expanduser raises for a user that does not exist


def describe_os_error(error: OSError, path: Path | str | None = None) -> str:
    """Return what is wrong with which file, for messages. path: the file if the system names none, as for a failed read."""
    reason, file = error.strerror or str(error), error.filename or path
    return reason if file is None else f"{file}: {reason}"


def make_private_folder(folder: Path) -> None:
    """Make a folder that only this user can enter, and take the rights of others to it away if it exists."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.name == "posix" and folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that match a pattern, in order; empty if there is no such folder.

    What another process removes meanwhile is left out: for that, `Path.glob` raises FileNotFoundError before Python 3.13.
    """
    return sorted(folder / name for name in glob.glob(pattern, root_dir=folder, include_hidden=True))  # noqa: PTH207


def file_sizes(folder: Path) -> dict[Path, int]:
    """Return the size in bytes of each file below a folder, in order; what another process removes meanwhile is left out."""
    sizes = {}
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            with contextlib.suppress(OSError):
                sizes[path] = path.stat().st_size
    return dict(sorted(sizes.items()))


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False, follow_link: bool = False, sync: bool = False) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to, and rename it to `path` at the end; after an error, remove it.

    private: a new file is for its owner only, and an existing one keeps its mode.
    follow_link: where `path` is a link, replace the file that it points to, not the link. sync: flush the content to the
    disk before the rename, so that a power cut cannot leave an empty file.

    Raises:
        OSError: The file cannot be written, or is a device or a pipe; the old one is unchanged. It names a path, although
            the system names none where a disk is full.
    """
    path = path.resolve() if follow_link else path
    _require_file(path)
    # Not tempfile, whose files are always private: models and their manifests may be shared.
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if private:
            os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield staged
        if private and path.exists():
            staged.chmod(stat.S_IMODE(path.stat().st_mode))
        if sync:
            with staged.open("rb+") as file:
                os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        if error.filename in (None, str(staged)):
            error.filename = str(path)
        raise
    finally:
        staged.unlink(missing_ok=True)


def _require_file(path: Path) -> None:
    """Raise OSError for what a rename would destroy: root could exchange /dev/null for a file."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder is never exchanged
            raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of a file; missing folders are created. Raises OSError; see `replacing`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staged:
        staged.write_bytes(content)


def write_text(path: Path, text: str, *, private: bool = False, follow_link: bool = False) -> None:
    """Like `write_bytes`, for a text: UTF-8, with the system's line ends. Raises OSError."""
    (path.resolve() if follow_link else path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, private=private, follow_link=follow_link) as staged:
        staged.write_text(text, encoding="utf-8")


def read_json(path: Path, type_: type[ValueT]) -> ValueT | None:
    """Return the value in a file that `write_json` wrote; None if there is none.

    Raises ValueError, whose message does not name the file, for any other content; OSError.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        return None
    except UNREADABLE_JSON as error:
        raise ValueError(f"it is damaged: {error}") from error


def read_json_or_warn(path: Path, type_: type[ValueT], consequence: str) -> ValueT | None:
    """Return the value in a file that `write_json` wrote; None if there is none or, with a warning, if it cannot be read.

    consequence: what follows from that, for the warning.
    """
    try:
        return read_json(path, type_)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("cannot read %s (%s); %s", path, reason, consequence)
        return None


def write_json(path: Path, value: Any) -> None:
    """Like `write_bytes`, for a value as JSON, indented by one space. Raises OSError."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1))
