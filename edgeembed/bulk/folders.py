"""A folder of text files, each cut into chunks. Positions are characters of a file, in the files' order by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgeembed.bulk.chunking import Chunker
from edgeembed.bulk.records import Position, Read, Record, Reject
from edgeembed.errors import ConfigError

MOST_FILE_BYTES = 64 * 2**20
"""A larger file is refused: it is read whole."""


class Folder:
    """Every file below a folder that is UTF-8 text. What begins with a dot is left alone, links to folders too."""

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
        """Give a record for each chunk; its id is FILE#START-END, in characters of the file.

        Raises ConfigError when the file is gone that the place is in.
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
            raise ConfigError(f"{self.path} has no file {start.file} any more")

    def _file(self, file: Path, relative: str, size: int, start: int, number: int, behind: int) -> Iterator[Read]:
        try:
            text = _text(file, size)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            if start == 0:
                # The next place is behind the file: no text is longer than its bytes.
                reason = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
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
    """Read a file. Raises OSError, UnicodeDecodeError, or ValueError for one that is too large or holds no text."""
    if size > MOST_FILE_BYTES:
        raise ValueError(f"it is larger than {MOST_FILE_BYTES // 2**20} MiB; split it")
    content = file.read_bytes()
    if b"\0" in content[:8192]:
        raise ValueError("it is no text")
    return content.decode("utf-8-sig")
