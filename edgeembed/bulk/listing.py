"""The files of a folder of a data set: of one format, or text files; `name=value` in their path is a column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from edgeembed.bulk.formats import ROW_FORMATS, Columns, InputFormat, checked_format, format_of, source_of
from edgeembed.bulk.places import Place, PlaceFile
from edgeembed.bulk.records import Position, Read, Record, Source
from edgeembed.errors import ConfigError

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Listing(NamedTuple):
    """The files of a folder with the format in which each is read, from its name. chunks: they are text files, to be cut.

    partitions: the columns that are in their paths, with the names of the types.
    """

    files: list[tuple[PlaceFile, InputFormat]]
    chunks: bool
    partitions: Mapping[str, str]


def list_folder(place: Place, format_: InputFormat | None) -> Listing:
    """List the files below a folder that are of a format; without one, those of the only format of rows, or text files.

    Raises ConfigError for several formats, and if there are no files; PlaceError, OSError.
    """
    files = [(file, format_of(file.place.file_name)) for file in place.files()]
    counts = Counter(found for _, found in files)
    if format_ is not None:
        files = [(file, found) for file, found in files if found == format_]
    elif rows := [found for found in counts if found in ROW_FORMATS]:
        if len(counts) > 1:
            formats = ", ".join(f"{count:,} of the format {found}" for found, count in sorted(counts.items()))
            raise ConfigError(f"{place.name} has files of several formats ({formats}); choose one with --format")
        format_ = rows[0]
    if not files:
        raise ConfigError(f"{place.name} has no {f'{format_} ' if format_ else ''}files")
    chunks = format_ is None
    return Listing(files, chunks, {} if chunks else _partition_types([file.relative for file, _ in files]))


def partition_values(relative: str, types: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns that a file's path holds, as `year=2024/lang=en/x.parquet` does."""
    values = dict(_parts(relative))
    found: dict[str, Any] = {}
    for name, type_ in types.items():
        value = values.get(name)
        found[name] = None if value is None or value == _NO_VALUE else int(value) if type_ == "int64" else value
    return found


class WithPartitions:
    """A file of a folder of a data set, whose rows have the columns that are in its path, where they lack them."""

    def __init__(self, source: Source, values: Mapping[str, Any], types: Mapping[str, str]) -> None:
        self._source = source
        self._values = values
        self._types = types

    @classmethod
    def around(cls, file: PlaceFile, columns: Columns, listing: Listing, format_: InputFormat) -> Source:
        """Return what reads a file with the columns that are kept. Raises ConfigError."""
        format_ = checked_format(file.place, format_).format
        own, types = split_columns(columns, listing.partitions)
        source = source_of(file.place, format_, own)
        return cls(source, partition_values(file.relative, types), types) if types else source

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def size_bytes(self) -> int | None:
        return self._source.size_bytes

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def kept_types(self) -> Mapping[str, Any]:
        return {**self._source.kept_types(), **self._types}

    def read(self, start: Position) -> Iterator[Read]:
        for read in self._source.read(start):
            yield read._replace(kept={**read.kept, **self._values}) if isinstance(read, Record) else read


def split_columns(columns: Columns, partitions: Mapping[str, str]) -> tuple[Columns, dict[str, str]]:
    """Return the columns that are in the files themselves, and those of --keep-columns that are in their paths."""
    own = columns._replace(keep=[name for name in columns.keep if name not in partitions])
    return own, {name: partitions[name] for name in columns.keep if name in partitions}


def _partition_types(paths: Sequence[str]) -> dict[str, str]:
    types: dict[str, str] = {}
    for relative in paths:
        for name, value in _parts(relative):
            type_ = "int64" if _INTEGER.fullmatch(value) else "string"
            if value != _NO_VALUE:
                types[name] = type_ if types.get(name, type_) == type_ else "string"
            else:
                types.setdefault(name, "int64")
    return types


def _parts(relative: str) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in PurePosixPath(relative).parts[:-1])
    return [(unquote(name), unquote(value)) for name, equals, value in parts if name and equals]
