"""Reads inputs made of lines: plain text, JSON Lines, CSV (RFC 4180). Positions are bytes."""

from __future__ import annotations

import contextlib
import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from edgeembed.bulk.records import MAX_BYTES, Position, Read, Record, Reject, id_of
from edgeembed.errors import ConfigError

JSON_FIELDS = ("text", "query", "input", "content")
"""Fields of a JSON object that may hold the text, unless one is named."""
DELIMITERS = ",;\t|"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_TOO_LONG = f"longer than {MAX_BYTES // 2**20} MiB"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SKIP_BYTES = 2**20


class Lines:
    """The bytes of a file, or of standard input, line by line."""

    def __init__(self, path: Path | None) -> None:
        """path: None for standard input, which cannot be read from an earlier position again."""
        self.path = path
        self._stdin_at = 0

    @property
    def name(self) -> str:
        return "-" if self.path is None else str(self.path)

    @property
    def size_bytes(self) -> int | None:
        return None if self.path is None else self.path.stat().st_size

    def fingerprint(self) -> str:
        if self.path is None:
            return "-"
        status = self.path.stat()
        return f"{self.path.absolute()} {status.st_size} {status.st_mtime_ns}"

    def lines(self, offset: int) -> Iterator[tuple[bytes, bool, int]]:
        """Yield each line without byte order mark, whether it was too long and cut, and the offset of the next line.

        Raises ConfigError for UTF-16, and when standard input ends before the offset.
        """
        with self._opened() as file:
            at = self._go_to(file, offset)
            while line := file.readline(MAX_BYTES):
                at += len(line)
                cut = len(line) == MAX_BYTES and not line.endswith(b"\n")
                rest = line
                while cut and rest and not rest.endswith(b"\n"):
                    rest = file.readline(_SKIP_BYTES)
                    at += len(rest)
                if self.path is None:
                    self._stdin_at = at
                if at == len(line) and line.startswith(_UTF16):
                    raise ConfigError(f"{self.name} is UTF-16; convert it to UTF-8")
                yield line.removeprefix(_BOM) if at == len(line) else line, cut, at

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self.path is None:
            yield sys.stdin.buffer
            return
        with self.path.open("rb") as file:
            yield file

    def _go_to(self, file: BinaryIO, offset: int) -> int:
        if self.path is not None:
            return file.seek(offset)
        while self._stdin_at < offset:
            skipped = len(file.read(min(_SKIP_BYTES, offset - self._stdin_at)))
            if not skipped:
                raise ConfigError("standard input is shorter than when the job began; send the same data again")
            self._stdin_at += skipped
        return self._stdin_at


class TextLines(Lines):
    """One text per line; blank lines are skipped."""

    def read(self, start: Position) -> Iterator[Read]:
        number = start.number
        for line, cut, at in self.lines(start.offset):
            number += 1
            after = Position(at, number, done=at)
            if cut:
                yield Reject(f"line {number}", _TOO_LONG, after)
                continue
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield Reject(f"line {number}", f"not UTF-8: {error.reason}", after)
                continue
            if text.strip():
                yield Record(None, text, number - 1, after, f"line {number}")


class JsonLines(Lines):
    """Per line a JSON string, or an object with fields for the text and optionally the id."""

    def __init__(self, path: Path | None, column: str | None, id_column: str | None) -> None:
        super().__init__(path)
        self._columns = (column,) if column else JSON_FIELDS
        self._id_column = id_column

    def read(self, start: Position) -> Iterator[Read]:
        number = start.number
        for line, cut, at in self.lines(start.offset):
            number += 1
            after = Position(at, number, done=at)
            if cut:
                yield Reject(f"line {number}", _TOO_LONG, after)
            elif line.strip():
                yield self._read(line, number, after)

    def _read(self, line: bytes, number: int, after: Position) -> Read:
        place = f"line {number}"
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return Reject(place, f"not JSON: {error}", after)
        if isinstance(value, str) and self._id_column is None:
            return Record(None, value, number - 1, after, place)
        if not isinstance(value, dict):
            return Reject(place, "expected a JSON object", after)
        id_ = None
        if self._id_column is not None and (id_ := id_of(value.get(self._id_column))) is None:
            return Reject(place, f"the field {self._id_column!r} is neither a string nor an integer", after)
        field = next((name for name in self._columns if name in value), None)
        if field is None:
            return Reject(place, f"no field {' or '.join(map(repr, self._columns))}", after, id_)
        if not isinstance(value[field], str):
            return Reject(place, f"the field {field!r} is not a string", after, id_)
        return Record(id_, value[field], number - 1, after, place)


class CsvLines(Lines):
    """Comma-separated values with a header, which also shows whether the delimiter is a semicolon, tab or bar."""

    def __init__(self, path: Path | None, column: str | None, id_column: str | None) -> None:
        super().__init__(path)
        self._column = column
        self._id_column = id_column
        self._header: list[str] | None = None
        self._header_end = 0
        self._delimiter = ","

    def read(self, start: Position) -> Iterator[Read]:
        csv.field_size_limit(MAX_BYTES)  # the default is 128 KiB
        header = self._read_header()
        text_at = header.index(choose_column(self._column, header, self.name))
        id_at = None if self._id_column is None else header.index(choose_column(self._id_column, header, self.name))
        number = start.number
        feed = _Feed(self.lines(max(start.offset, self._header_end)))
        rows = csv.reader(feed, delimiter=self._delimiter)
        while True:
            feed.cut = False
            row: list[str] = []
            reason: str | None = None
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                reason = str(error)
            if not row and reason is None:
                continue
            number += 1
            reason = reason or (_TOO_LONG if feed.cut else _defect(row, header))
            after, place = Position(feed.at, number, done=feed.at), f"row {number}"
            if reason is not None:
                yield Reject(place, reason, after)
            elif id_at is not None and not row[id_at]:
                yield Reject(place, f"the column {self._id_column!r} is empty", after)
            else:
                yield Record(None if id_at is None else row[id_at], row[text_at], number - 1, after, place)

    def _read_header(self) -> list[str]:
        """Return the names of the columns, read once because standard input cannot be read again."""
        if self._header is None:
            feed = _Feed(self.lines(0))
            first = next(feed, None)
            if first is None:
                raise ConfigError(f"{self.name} is empty; expected a header with the names of the columns")
            self._delimiter = max(DELIMITERS, key=first.count)
            self._header = next(csv.reader([first], delimiter=self._delimiter), [])
            self._header_end = feed.at
        return self._header


class _Feed:
    """Lines as text for the csv module, which takes as many as a record has. at: offset of the next line."""

    def __init__(self, lines: Iterator[tuple[bytes, bool, int]]) -> None:
        self._lines = lines
        self.at = 0
        self.cut = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, cut, self.at = next(self._lines)
        self.cut = self.cut or cut
        return line.decode(errors="surrogateescape")


def stdin_lines() -> Iterator[str]:
    """Yield the lines of standard input that are not blank. Raises ConfigError for a line that is not UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"line {number} of standard input is not UTF-8") from error
        if text.strip():
            yield text


def choose_column(wanted: str | None, columns: list[str], name: str) -> str:
    """Return the column with the texts: the one that is wanted, else `text` or the only one. Raises ConfigError."""
    if wanted in columns:
        return str(wanted)
    if wanted is None:
        if "text" in columns or len(columns) == 1:
            return "text" if "text" in columns else columns[0]
        raise ConfigError(f"name the column of {name} that holds the texts with --column: {', '.join(columns)}")
    raise ConfigError(f"{name} has no column {wanted!r}; it has: {', '.join(columns)}")


def _defect(row: list[Any], header: list[str]) -> str | None:
    if len(row) != len(header):
        return f"{len(row)} columns, but the header has {len(header)}"
    if any(_SURROGATE.search(field) for field in row):
        return "not UTF-8"
    return None
