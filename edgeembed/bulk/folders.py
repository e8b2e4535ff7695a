"""Reads a folder of text files and documents, sorted by name, each cut into chunks. Positions are characters of a text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeembed.bulk.content import content_of, opened, problem_of, without_compression
from edgeembed.bulk.documents import (
    DOCUMENT_COLUMNS,
    DOCUMENT_SUFFIXES,
    TITLE,
    Document,
    UnreadableError,
    is_document,
    read_document,
)
from edgeembed.bulk.records import Position, Read, Record, Reject
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker

MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused, because a file is read at once."""


class Folder:
    """The UTF-8 text files and documents below a folder, without hidden ones; links to folders are not followed."""

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

    def kept_types(self) -> Mapping[str, str]:
        return DOCUMENT_COLUMNS if any(_is_named_document(file) for file, _ in self._files()) else {}

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
            found = _read(file)
        except (OSError, UnicodeDecodeError, UnreadableError, ConfigError) as error:
            if start == 0:
                # The next position is one at which the file, if it is resumed, is not refused again.
                reason = "the file is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                yield Reject(relative, reason, Position(size + 1, number, relative, behind + size))
            return
        text = found.text
        whole = Record(relative, text, number, Position(), relative, {TITLE: found.title}, found.pages)
        for chunk in self._chunker.chunks(text, start):
            number += 1
            done = behind + size * chunk.next // max(len(text), 1)
            place = f"{relative}#{chunk.start}-{chunk.end}"
            after = Position(chunk.next, number, relative, done)
            yield Record(place, text[chunk.start : chunk.end], number - 1, after, place, whole.kept_at(chunk.start))

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for root, folders, names in os.walk(self.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(root) / name
                if not name.startswith(".") and file.is_file():
                    yield file, file.stat()

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()


def _is_named_document(file: Path) -> bool:
    return file.suffix.lower() in DOCUMENT_SUFFIXES


def _read(file: Path) -> Document:
    """Read a file. Raises OSError, UnicodeDecodeError, UnreadableError for one that is too large or no text, ConfigError."""
    with opened(file) as stream:
        head = stream.head()
        if not stream.compression and (_is_named_document(file) or is_document(file, content_of(head))):
            return read_document(file)
        if _is_named_document(Path(without_compression(file.name))):
            raise UnreadableError("the document is compressed; decompress it")
        if problem := problem_of(head):
            raise UnreadableError(f"the file {problem}")
        content: bytes = stream.file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB; split it")
    return Document(content.decode("utf-8-sig"))
