"""All inputs of a job as one stream of records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from edgeembed.bulk.chunked_rows import ChunkedRows
from edgeembed.bulk.content import content_of, opened, problem_of, without_compression
from edgeembed.bulk.documents import DOCUMENT_SUFFIXES, DocumentFile, is_document
from edgeembed.bulk.folders import Folder
from edgeembed.bulk.json_rows import JsonRows
from edgeembed.bulk.kept import arrow_name
from edgeembed.bulk.lines import CsvLines, TextLines
from edgeembed.bulk.records import Position, Read, Record, Reject, Source
from edgeembed.bulk.tables import ParquetRows
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker

InputFormat = Literal["text", "jsonl", "json", "csv", "parquet", "document"]
INPUT_FORMATS: tuple[InputFormat, ...] = get_args(InputFormat)
_SUFFIXES: dict[str, InputFormat] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    **dict.fromkeys(DOCUMENT_SUFFIXES, "document"),
}


class Columns(NamedTuple):
    """Which columns or fields to read: those of the text and of the ids, and those that pass to the output."""

    text: str | None = None
    id: str | None = None
    keep: Sequence[str] = ()


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
                next(self._records(source, Position()), None)

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
            for read in self._records(source, start.place if index == start.input else Position()):
                after = Cursor(index, read.after, behind + read.after.done)
                found = read
                if isinstance(read, Record) and (read.id is None or (files and several)):
                    own = read.number if read.id is None else read.id
                    found = read._replace(id=f"{name}:{own}" if several else own)
                yield Step(name, found, after)

    def _records(self, source: Source, start: Position) -> Iterator[Read]:
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
        path = Path(name)
        if name != "-" and path.is_dir():
            if format_ is None:
                _require_no_columns(name, "a folder of files", columns)
                sources.append(Folder(path, chunker))
                continue
            files = sorted(file for file in path.iterdir() if file.is_file() and format_of(file) == format_)
            if not files:
                raise ConfigError(f"{path} has no {format_} files")
            sources += [_source(file, format_, columns) for file in files]
            continue
        file = None if name == "-" else path
        sources.append(_source(file, format_, columns))
    if chunk_rows:
        several = len(sources) > 1
        sources = [
            source if isinstance(source, Folder) else ChunkedRows(source, chunker, several=several) for source in sources
        ]
    return Inputs(sources)


def require_files(names: Sequence[str]) -> None:
    """Raise ConfigError unless all inputs exist and standard input is named only once."""
    for name in names:
        if name == "-":
            continue
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"no such file: {name}")
        if not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{name} is a pipe or a device, which cannot be resumed; send it to standard input and name -")
    if sum(name == "-" for name in names) > 1:
        raise ConfigError("standard input can be read only once; give - once")


def format_of(path: Path) -> InputFormat:
    """Return the format of a file by its name, in which the suffix of a compressed file does not count."""
    return _SUFFIXES.get(Path(without_compression(path.name)).suffix.lower(), "text")


def require_texts(arguments: Sequence[str], remedy: str) -> None:
    """Raise ConfigError for an argument that is rather a file's name than a text. remedy: what to do with its content."""
    for text in arguments:
        if os.path.exists(text):  # noqa: PTH110 - many texts are not valid paths
            raise ConfigError(f"{text} is a file; {remedy}; to take its name as a text, add --text")
        if looks_like_file(text):
            raise ConfigError(f"no such file: {text}; if it is a text and no file's name, add --text")


def looks_like_file(text: str) -> bool:
    """Return whether an argument is rather the name of a file than a text: one word with a suffix, or a path."""
    if text.startswith(("./", "../", "~/", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return "\n" not in text
    return not re.search(r"\s", text) and bool(re.search(r"[\\/]|[^.]\.[A-Za-z0-9]{1,8}$", text))


def _source(path: Path | None, format_: InputFormat | None, columns: Columns) -> Source:
    if path is not None and path.is_file():
        format_ = _checked_format(path, format_)
    if format_ in ("parquet", "document") and path is None:
        raise ConfigError(f"a {format_} file cannot be read from standard input; name the file")
    match format_:
        case "jsonl" | "json":
            return JsonRows(path, columns.text, columns.id, columns.keep)
        case "csv":
            return CsvLines(path, columns.text, columns.id, columns.keep)
        case "parquet" if path:
            return ParquetRows(path, columns.text, columns.id, columns.keep)
        case "document" if path:
            _require_no_columns(str(path), "a document", columns)
            return DocumentFile(path)
        case _:
            _require_no_columns(str(path or "-"), "lines of text", columns)
            return TextLines(path)


def _checked_format(path: Path, wanted: InputFormat | None) -> InputFormat:
    """Return the format in which to read a file. Raises ConfigError for content of another kind."""
    with opened(path) as stream:
        head, compression = stream.head(), stream.compression
    content = content_of(head)
    by_name = format_of(path)
    found = wanted or by_name
    if wanted is None and content == "parquet":
        found = "parquet"
    elif wanted is None and by_name == "text" and is_document(path, content):
        found = "document"
    if found in ("parquet", "document"):
        if compression:
            raise ConfigError(f"{path} is compressed ({compression}); decompress it, as {found}s are read from all places")
    elif problem := problem_of(head):
        raise ConfigError(f"{path} {problem}")
    return found


def _require_no_columns(name: str, what: str, columns: Columns) -> None:
    if columns != Columns():
        raise ConfigError(f"{name} is read as {what}, which have no columns; name its format with --format")


__all__ = [
    "INPUT_FORMATS",
    "Columns",
    "Cursor",
    "InputFormat",
    "Inputs",
    "Reject",
    "Step",
    "format_of",
    "looks_like_file",
    "open_inputs",
    "require_files",
    "require_texts",
]
