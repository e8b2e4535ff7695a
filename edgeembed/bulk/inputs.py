"""All inputs of a job as one stream of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from edgeembed.bulk.chunking import Chunker
from edgeembed.bulk.folders import Folder
from edgeembed.bulk.lines import CsvLines, JsonLines, TextLines
from edgeembed.bulk.records import Position, Read, Record, Reject, Source
from edgeembed.bulk.tables import ParquetRows
from edgeembed.errors import ConfigError

InputFormat = Literal["text", "jsonl", "csv", "parquet"]
INPUT_FORMATS: tuple[InputFormat, ...] = get_args(InputFormat)
_SUFFIXES: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


class Cursor(msgspec.Struct, frozen=True):
    """Where reading the inputs goes on: in which of them, and there. done: bytes of all inputs that are behind."""

    input: int = 0
    place: Position = Position()
    done: int = 0


class Step(NamedTuple):
    """What was read from an input, and where reading goes on after it."""

    input: str
    read: Read
    after: Cursor


class Inputs:
    """The inputs of a job, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        sizes = [source.size_bytes for source in sources]
        self.size_bytes = None if None in sizes else sum(size or 0 for size in sizes)
        """Bytes of all of them; None when one is standard input."""
        self._sizes = [size or 0 for size in sizes]

    def fingerprints(self) -> list[str]:
        """Give what changes when an input does."""
        return [source.fingerprint() for source in self._sources]

    def read(self, start: Cursor) -> Iterator[Step]:
        """Give all records from a cursor on. One that has no id gets its number in its input, from 0 on.

        Of several inputs the id says which one it is: INPUT:ID, unless a column holds the ids. Raises ConfigError.
        """
        several = len(self._sources) > 1
        for index in range(start.input, len(self._sources)):
            source = self._sources[index]
            behind = sum(self._sizes[:index])
            files = isinstance(source, Folder)
            for read in source.read(start.place if index == start.input else Position()):
                after = Cursor(index, read.after, behind + read.after.done)
                found = read
                if isinstance(read, Record) and (read.id is None or (files and several)):
                    own = read.number if read.id is None else read.id
                    found = read._replace(id=f"{source.name}:{own}" if several else own)
                yield Step(source.name, found, after)


def open_inputs(
    names: Sequence[str], format_: InputFormat | None, column: str | None, id_column: str | None, chunker: Chunker
) -> Inputs:
    """Find the inputs: files by their suffix or a format, folders of texts, "-" for standard input.

    Of a folder with a format, its files of that format are read instead. Raises ConfigError naming what is missing.
    """
    sources: list[Source] = []
    for name in names:
        path = Path(name)
        if name != "-" and path.is_dir():
            if format_ is None:
                sources.append(Folder(path, chunker))
                continue
            files = sorted(file for file in path.iterdir() if file.is_file() and _format_of(file) == format_)
            if not files:
                raise ConfigError(f"{path} holds no files of the format {format_}")
            sources += [_source(file, format_, column, id_column) for file in files]
            continue
        if name != "-" and not path.is_file():
            raise ConfigError(f"there is no file {name}")
        file = None if name == "-" else path
        sources.append(_source(file, format_ or (_format_of(path) if file else "text"), column, id_column))
    if sum(name == "-" for name in names) > 1:
        raise ConfigError("standard input can be read once: name - once")
    return Inputs(sources)


def _format_of(path: Path) -> InputFormat:
    return _SUFFIXES.get(path.suffix.lower(), "text")


def _source(path: Path | None, format_: InputFormat, column: str | None, id_column: str | None) -> Source:
    if format_ == "jsonl":
        return JsonLines(path, column, id_column)
    if format_ == "csv":
        return CsvLines(path, column, id_column)
    if format_ == "parquet":
        if path is None:
            raise ConfigError("Parquet cannot be read from standard input: its index is at the end; name a file")
        return ParquetRows(path, column, id_column)
    if column is not None or id_column is not None:
        raise ConfigError(f"{path or '-'} is read as lines of text, which have no columns; --format says what it is")
    return TextLines(path)


__all__ = ["INPUT_FORMATS", "Cursor", "InputFormat", "Inputs", "Reject", "Step", "open_inputs"]
