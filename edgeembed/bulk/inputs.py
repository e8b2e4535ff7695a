"""All inputs of a job as one stream of records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeembed.bulk.chunked_rows import ChunkedRows
from edgeembed.bulk.documents import DocumentFile
from edgeembed.bulk.file_systems import redacted
from edgeembed.bulk.folders import Folder
from edgeembed.bulk.formats import (
    INPUT_FORMATS,
    Columns,
    InputFormat,
    checked_format,
    format_of,
    require_no_columns,
    source_of,
)
from edgeembed.bulk.kept import arrow_name
from edgeembed.bulk.listing import WithPartitions, list_folder
from edgeembed.bulk.places import Place, is_uri
from edgeembed.bulk.records import Position, Read, Record, Reject, Source
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker


class Cursor(msgspec.Struct, frozen=True):
    """A position in the inputs: which of them, and where in it. done: bytes of all inputs read so far."""

    input: int = 0
    place: Position = Position()
    done: int = 0


class Step(NamedTuple):
    """What was read from an input, and the position after it."""

    input: str
    read: Read
    after: Cursor


class Inputs:
    """The inputs of a job, read one after another."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        sizes = [source.size_bytes for source in sources]
        self.size_bytes = None if None in sizes else sum(size or 0 for size in sizes)
        """Total size; None when one of them is standard input."""
        self._sizes = [size or 0 for size in sizes]

    def fingerprints(self) -> list[str]:
        """Return for each input a string that changes when the input does."""
        return [source.fingerprint() for source in self._sources]

    def check(self) -> None:
        """Read the first record of each file of rows. Raises ConfigError for mistakes that show there."""
        for source in self._sources:
            if source.name != "-" and not isinstance(source, (Folder, DocumentFile)):
                next(checked_records(source, Position()), None)

    def kept_types(self) -> dict[str, str]:
        """Return the columns of the output that the inputs are sure to fill, with the names of their types.

        Raises ConfigError for a column that an input lacks.
        """
        found: dict[str, str] = {}
        for source in self._sources:
            for name, type_ in source.kept_types().items():
                found.setdefault(name, type_ if isinstance(type_, str) else arrow_name(type_))
        return found

    def read(self, start: Cursor) -> Iterator[Step]:
        """Yield all records from a cursor on. A record without an id gets its number in its input, from 0.

        With several inputs, ids that do not come from a column are prefixed with the input: INPUT:ID. Raises ConfigError.
        """
        several = len(self._sources) > 1
        for index in range(start.input, len(self._sources)):
            source = self._sources[index]
            name = source.name
            behind = sum(self._sizes[:index])
            files = isinstance(source, Folder)
            for read in checked_records(source, start.place if index == start.input else Position()):
                after = Cursor(index, read.after, behind + read.after.done)
                found = read
                if isinstance(read, Record) and (read.id is None or (files and several)):
                    own = read.number if read.id is None else read.id
                    found = read._replace(id=f"{name}:{own}" if several else own)
                yield Step(name, found, after)


def checked_records(source: Source, start: Position) -> Iterator[Read]:
    """Yield the records of a source. Raises ConfigError for one that speaks for the whole input."""
    for read in source.read(start):
        if isinstance(read, Reject) and read.of_all:
            raise ConfigError(f"{source.name}, {read.place}: {read.reason}")
        yield read


def open_inputs(
    names: Sequence[str], format_: InputFormat | None, columns: Columns, chunker: Chunker, *, chunk_rows: bool = False
) -> Inputs:
    """Open files by content and suffix, or as `format_`, folders of text files, and "-" for standard input.

    With a format, a folder stands for its files of that format. chunk_rows: cut rows, and not only the files of a folder.
    Raises ConfigError.
    """
    require_files(names)
    sources: list[Source] = []
    for name in names:
        if name == "-":
            sources.append(source_of(None, format_, columns))
            continue
        place = Place.of(name)
        if is_uri(name):
            sources += _sources_of_uri(place, format_, columns, chunker)
        elif not place.local.is_dir():
            sources.append(source_of(place, checked_format(place, format_).format, columns))
        elif format_ is None:
            require_no_columns(name, "a folder of files", columns)
            sources.append(Folder(place, chunker))
        else:
            found = sorted(file for file in place.local.iterdir() if file.is_file() and format_of(file.name) == format_)
            if not found:
                raise ConfigError(f"{place.name} has no {format_} files")
            files = [Place.of_path(file) for file in found]
            sources += [source_of(file, checked_format(file, format_).format, columns) for file in files]
    if chunk_rows:
        several = len(sources) > 1
        sources = [
            source if isinstance(source, Folder) else ChunkedRows(source, chunker, several=several) for source in sources
        ]
    return Inputs(sources)


def holds_texts(name: str) -> bool:
    """Return whether an input without a format is a folder of text files, which are cut. Raises ConfigError, OSError."""
    place = Place.of(name)
    if not place.is_uri:
        return place.local.is_dir()
    status = place.status()
    return status is not None and status.kind == "folder" and list_folder(place, None).chunks


def _sources_of_uri(place: Place, format_: InputFormat | None, columns: Columns, chunker: Chunker) -> list[Source]:
    status = place.require()
    if status.kind == "file":
        return [source_of(place, checked_format(place, format_).format, columns)]
    listing = list_folder(place, format_)
    if listing.chunks:
        require_no_columns(place.name, "a folder of files", columns)
        return [Folder(place, chunker, [file for file, _ in listing.files])]
    return [WithPartitions.around(file, columns, listing, found) for file, found in listing.files]


def require_files(names: Sequence[str]) -> None:
    """Raise ConfigError unless all inputs exist and standard input is named only once."""
    for name in names:
        if name == "-":
            continue
        if is_uri(name):
            if Place.of(name).status() is None:
                raise ConfigError(f"no such file: {Place.of(name).name}")
            continue
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"no such file: {name}")
        if not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{name} is a pipe or a device, which cannot be resumed; send it to standard input and name -")
    if sum(name == "-" for name in names) > 1:
        raise ConfigError("standard input can be read only once; give - once")


def require_texts(arguments: Sequence[str], remedy: str) -> None:
    """Raise ConfigError for an argument that is rather a file's name than a text. remedy: what to do with its content."""
    for text in arguments:
        if is_uri(text) and not re.search(r"\s", text):
            raise ConfigError(f"{redacted(text)} is a URI; {remedy}; to take it as a text, add --text")
        if os.path.exists(text):  # noqa: PTH110 - many texts are not valid paths
            raise ConfigError(f"{text} is a file; {remedy}; to take its name as a text, add --text")
        if looks_like_file(text):
            raise ConfigError(f"no such file: {text}; if it is a text and no file's name, add --text")


def looks_like_file(text: str) -> bool:
    """Return whether an argument is rather the name of a file than a text: one word with a suffix, or a path."""
    if text.startswith(("./", "../", "~/", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return "\n" not in text
    return not re.search(r"\s", text) and bool(re.search(r"[\\/]|[^.]\.[A-Za-z0-9]{1,8}$", text))


__all__ = [
    "INPUT_FORMATS",
    "Columns",
    "Cursor",
    "InputFormat",
    "Inputs",
    "Reject",
    "Step",
    "format_of",
    "holds_texts",
    "looks_like_file",
    "open_inputs",
    "require_files",
    "require_texts",
]
