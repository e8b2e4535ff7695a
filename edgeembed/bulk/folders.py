"""Reads a folder of text files and documents, sorted by name, each cut into chunks. Positions are characters of a text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
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
from edgeembed.bulk.place_status import local_status
from edgeembed.bulk.places import Place, PlaceFile
from edgeembed.bulk.records import Position, Read, Record, Reject
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker

MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused, because a file is read at once."""


class Folder:
    """The UTF-8 text files and documents below a folder, without hidden ones; links to folders are not followed."""

    def __init__(self, place: Place, chunker: Chunker, listed: Iterable[PlaceFile] | None = None) -> None:
        """listed: the files, if they were listed already; needed for a folder of a store. A stream is for one reading."""
        self.place = place
        self._chunker = chunker
        self._listed = listed
        self._size: int | None = None

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def size_bytes(self) -> int:
        if self._size is None:
            self._size = sum(file.status.size or 0 for file in self._files())
        return self._size

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self._files():
            digest.update(f"{file.relative}\0{file.status.size}\0{file.status.version}\n".encode(errors="surrogateescape"))
        name = self.name if self.place.is_remote else self.place.local.absolute()
        return f"{name} {digest.hexdigest()}"

    def kept_types(self) -> Mapping[str, str]:
        return DOCUMENT_COLUMNS if any(is_named_document(file.relative) for file in self._files()) else {}

    def read(self, start: Position) -> Iterator[Read]:
        """Yield a record for each chunk, with the id FILE#START-END in characters of the file.

        Raises ConfigError when the file of the start position is missing.
        """
        number, behind, found = start.number, 0, not start.file
        for file in self._files():
            size = file.status.size or 0
            here = file.relative == start.file
            if not found and not here:
                behind += size
                continue
            found = True
            position = Position(start.offset if here else 0, number, done=behind)
            for read in chunks_of(file, self._chunker, position):
                number = read.after.number
                yield read
            behind += size
        if not found:
            raise ConfigError(f"{self.name} no longer has the file {start.file}")

    def _files(self) -> Iterator[PlaceFile]:
        if self._listed is not None:
            yield from self._listed
            return
        for root, folders, names in os.walk(self.place.local):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(root) / name
                if not name.startswith(".") and file.is_file():
                    relative = file.relative_to(self.place.local).as_posix()
                    yield PlaceFile(Place.of_path(file), relative, local_status(file.stat()))


def chunks_of(file: PlaceFile, chunker: Chunker, start: Position) -> Iterator[Read]:
    """Yield a record for each chunk of a file from a character on. start: with the number and the bytes before the file."""
    number, relative, size = start.number, file.relative, file.status.size or 0
    try:
        found = _read(file.place)
    except (OSError, UnicodeDecodeError, UnreadableError, ConfigError) as error:
        if start.offset == 0:
            # The next position is one at which the file, if it is resumed, is not refused again.
            reason = "the file is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            yield Reject(relative, reason, Position(size + 1, number, relative, start.done + size))
        return
    text = found.text
    whole = Record(relative, text, number, Position(), relative, {TITLE: found.title}, found.pages)
    for chunk in chunker.chunks(text, start.offset):
        number += 1
        done = start.done + size * chunk.next // max(len(text), 1)
        place = f"{relative}#{chunk.start}-{chunk.end}"
        after = Position(chunk.next, number, relative, done)
        yield Record(place, text[chunk.start : chunk.end], number - 1, after, place, whole.kept_at(chunk.start))


def is_named_document(name: str) -> bool:
    """Return whether a file is a document by its name."""
    return name.lower().endswith(DOCUMENT_SUFFIXES)


def _read(file: Place) -> Document:
    """Read a file.

    Raises OSError, UnicodeDecodeError, UnreadableError for one that is too large or no text, ConfigError, PlaceError.
    """
    with opened(file) as stream:
        head = stream.head()
        if not stream.compression and (is_named_document(file.file_name) or is_document(file, content_of(head))):
            return read_document(file)
        if is_named_document(without_compression(file.file_name)):
            raise UnreadableError("the document is compressed; decompress it")
        if problem := problem_of(head):
            raise UnreadableError(f"the file {problem}")
        content: bytes = stream.file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB; split it")
    return Document(content.decode("utf-8-sig"))
