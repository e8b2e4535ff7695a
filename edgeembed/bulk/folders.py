"""Reads a folder of text files, sorted by name, each cut into chunks. Positions are characters of a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgeembed.bulk.records import Position, Read, Record, Reject
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker

MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused, because a file is read at once."""


class Folder:
    """The UTF-8 text files below a folder, without hidden ones; links to folders are not followed."""

    def __init__(self, path: Path, chunker: Chunker) -> None:
        self.path = path
        self._chunker = chunker
        self._size: int | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def size_bytes(self) -> int:
        if self._size is None:
            self._size = sum(status.st_size for _, status in self._files())
        return self._size

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file, status in self._files():
            digest.update(
                f"{self._relative(file)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
        return f"{self.path.absolute()} {digest.hexdigest()}"

    def read(self, start: Position) -> Iterator[Read]:
        """Yield a record for each chunk, with the id FILE#START-END in characters of the file.

        Raises ConfigError when the file of the start position is missing.
        """
        number, behind, found = start.number, 0, not start.file
        for file, status in self._files():
            relative = self._relative(file)
            here = relative == start.file
            if not found and not here:
                behind += status.st_size
                continue
            found = True
            for read in self._file(file, relative, status.st_size, start.offset if here else 0, number, behind):
                number = read.after.number
                yield read
            behind += status.st_size
        if not found:
            raise ConfigError(f"{self.path} no longer has the file {start.file}")

    def _file(self, file: Path, relative: str, size: int, start: int, number: int, behind: int) -> Iterator[Read]:
        try:
            text = _text(file, size)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            if start == 0:
                # The next position is behind the file: a text has at most as many characters as bytes.
                reason = "the file is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                yield Reject(relative, reason, Position(size + 1, number, relative, behind + size))
            return
        for chunk in self._chunker.chunks(text, start):
            number += 1
            done = behind + size * chunk.next // max(len(text), 1)
            place = f"{relative}#{chunk.start}-{chunk.end}"
            after = Position(chunk.next, number, relative, done)
            yield Record(place, text[chunk.start : chunk.end], number - 1, after, place)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for root, folders, names in os.walk(self.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(root) / name
                if not name.startswith(".") and file.is_file():
                    yield file, file.stat()

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()


def _text(file: Path, size: int) -> str:
    """Read a file. Raises OSError, UnicodeDecodeError, or ValueError for a file that is too large or binary."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB; split it")
    content = file.read_bytes()
    if b"\0" in content[:8192]:
        raise ValueError("the file is binary")
    return content.decode("utf-8-sig")
