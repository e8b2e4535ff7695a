"""The formats of inputs: by name and content, and what reads each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, get_args

from edgeembed.bulk.content import HEAD_BYTES, content_of, opened, problem_of, without_compression
from edgeembed.bulk.documents import DOCUMENT_SUFFIXES, DocumentFile, is_document
from edgeembed.bulk.json_rows import JsonRows
from edgeembed.bulk.lines import BOM, ByteRange, CsvLines, TextLines
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import Source
from edgeembed.bulk.tables import ParquetRows
from edgeembed.errors import ConfigError

InputFormat = Literal["text", "jsonl", "json", "csv", "parquet", "document"]
INPUT_FORMATS: tuple[InputFormat, ...] = get_args(InputFormat)
ROW_FORMATS: tuple[InputFormat, ...] = ("jsonl", "json", "csv", "parquet")
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
_SNIFF_BYTES = 8 * HEAD_BYTES
"""What is fetched of a file to see what it holds: compressed content shows in whole blocks. Of Parquet, HEAD_BYTES are."""


class Columns(NamedTuple):
    """Which columns or fields to read: those of the text and of the ids, and those that pass to the output."""

    text: str | None = None
    id: str | None = None
    keep: Sequence[str] = ()


class FileFormat(NamedTuple):
    """How to read a file. divisible: it is plain lines, each a record, so that it can be read from any line on."""

    format: InputFormat
    divisible: bool


def format_of(name: str) -> InputFormat:
    """Return the format of a file by its name, in which the suffix of a compressed file does not count."""
    return _SUFFIXES.get(PurePosixPath(without_compression(name)).suffix.lower(), "text")


def checked_format(place: Place, wanted: InputFormat | None) -> FileFormat:
    """Return the format in which to read a file. Raises ConfigError for content of another kind; PlaceError, OSError."""
    by_name = format_of(place.file_name)
    found = wanted or by_name
    with opened(place, HEAD_BYTES if found == "parquet" else _SNIFF_BYTES) as stream:
        head, compression = stream.head(), stream.compression
    content = content_of(head)
    if wanted is None and content == "parquet":
        found = "parquet"
    elif wanted is None and by_name == "text" and is_document(place, content):
        found = "document"
    if found in ("parquet", "document"):
        if compression:
            raise ConfigError(
                f"{place.name} is compressed ({compression}); decompress it, as {found}s are read from all places"
            )
    elif problem := problem_of(head):
        raise ConfigError(f"{place.name} {problem}")
    array = found in ("json", "jsonl") and head.removeprefix(BOM).lstrip().startswith(b"[")
    return FileFormat(found, found in ("text", "jsonl", "json") and not compression and not array)


def source_of(place: Place | None, format_: InputFormat | None, columns: Columns, part: ByteRange | None = None) -> Source:
    """Return what reads a file in a format; lines of text by default. place: None for standard input.

    part: of a file of lines, in bytes, or of a Parquet file, in rows. Raises ConfigError.
    """
    if format_ in ("parquet", "document") and place is None:
        raise ConfigError(f"a {format_} file cannot be read from standard input; name the file")
    match format_:
        case "jsonl" | "json":
            return JsonRows(place, columns.text, columns.id, columns.keep, part=part)
        case "csv":
            return CsvLines(place, columns.text, columns.id, columns.keep)
        case "parquet" if place:
            return ParquetRows(place, columns.text, columns.id, columns.keep, end=part.end if part else None)
        case "document" if place:
            require_no_columns(place.name, "a document", columns)
            return DocumentFile(place)
        case _:
            require_no_columns(place.name if place else "-", "lines of text", columns)
            return TextLines(place, part)


def require_no_columns(name: str, what: str, columns: Columns) -> None:
    """Raise ConfigError if columns are named for an input that has none."""
    if columns.text or columns.id or columns.keep:
        raise ConfigError(f"{name} is read as {what}, which have no columns; name its format with --format")
