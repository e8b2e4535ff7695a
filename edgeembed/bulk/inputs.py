"""All inputs of a job as one stream of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from edgeembed.bulk.chunked_rows import ChunkedRows
from edgeembed.bulk.folders import Folder
from edgeembed.bulk.lines import CsvLines, JsonLines, TextLines
from edgeembed.bulk.records import Position, Read, Record, Reject, Source
from edgeembed.bulk.tables import ParquetRows
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker

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

    def read(self, start: Cursor) -> Iterator[Step]:
        """Yield all records from a cursor on. A record without an id gets its number in its input, from 0.

        With several inputs, ids that do not come from a column are prefixed with the input: INPUT:ID. Raises ConfigError.
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
    names: Sequence[str],
    format_: InputFormat | None,
    column: str | None,
    id_column: str | None,
    chunker: Chunker,
    *,
    chunk_rows: bool = False,
) -> Inputs:
    """Open files by suffix or as `format_`, folders of text files, and "-" for standard input.

    With a format, a folder stands for its files of that format. chunk_rows: cut rows, and not only the text files of a
    folder. Raises ConfigError.
    """
    require_files(names)
    sources: list[Source] = []
    for name in names:
        path = Path(name)
        if name != "-" and path.is_dir():
            if format_ is None:
                sources.append(Folder(path, chunker))
                continue
            files = sorted(file for file in path.iterdir() if file.is_file() and _format_of(file) == format_)
            if not files:
                raise ConfigError(f"{path} has no {format_} files")
            sources += [_source(file, format_, column, id_column) for file in files]
            continue
        file = None if name == "-" else path
        sources.append(_source(file, format_ or (_format_of(path) if file else "text"), column, id_column))
    if chunk_rows:
        several = len(sources) > 1
        sources = [
            source if isinstance(source, Folder) else ChunkedRows(source, chunker, several=several) for source in sources
        ]
    return Inputs(sources)


def require_files(names: Sequence[str]) -> None:
    """Raise ConfigError unless all inputs exist and standard input is named only once."""
    for name in names:
        if name != "-" and not Path(name).exists():
            raise ConfigError(f"no such file: {name}")
    if sum(name == "-" for name in names) > 1:
        raise ConfigError("standard input can be read only once; give - once")


def _format_of(path: Path) -> InputFormat:
    return _SUFFIXES.get(path.suffix.lower(), "text")


def _source(path: Path | None, format_: InputFormat, column: str | None, id_column: str | None) -> Source:
    if format_ == "jsonl":
        return JsonLines(path, column, id_column)
    if format_ == "csv":
        return CsvLines(path, column, id_column)
    if format_ == "parquet":
        if path is None:
            raise ConfigError("Parquet cannot be read from standard input, because its index is at the end; name a file")
        return ParquetRows(path, column, id_column)
    if column is not None or id_column is not None:
        raise ConfigError(f"{path or '-'} is read as lines of text, which have no columns; name its format with --format")
    return TextLines(path)


__all__ = ["INPUT_FORMATS", "Cursor", "InputFormat", "Inputs", "Reject", "Step", "open_inputs", "require_files"]
