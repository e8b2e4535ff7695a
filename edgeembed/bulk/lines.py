"""Reads inputs made of lines: plain text, CSV (RFC 4180). Positions are bytes, of the decompressed content."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from edgeembed.bulk.content import SKIP_BYTES, ByteStream, opened, opened_stdin, problem_of
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import MAX_BYTES, SURROGATE, TOO_LONG, Position, Read, Record, Reject, fingerprint_of, size_of
from edgeembed.errors import ConfigError

DELIMITERS = ",;\t|"
BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line. cut: it was too long. at, done: where the next one begins, in bytes of the content and of the file.

    start: where this one begins, in bytes of the content.
    """

    content: bytes
    cut: bool
    at: int
    done: int
    start: int


class ByteRange(NamedTuple):
    """A part of a file of lines: those that begin in it. end: None for that of the file."""

    start: int = 0
    end: int | None = None


class Lines:
    """The bytes of a file, or of standard input, line by line."""

    def __init__(self, place: Place | None, part: ByteRange | None = None) -> None:
        """place: None for standard input, which cannot be read from an earlier position again.

        part: to be read alone; the numbers of records are then the offsets of their lines, in bytes of the content.
        """
        self.place = place
        self.part = part
        self._stdin: ByteStream | None = None
        self._stdin_at = 0

    @property
    def name(self) -> str:
        return "-" if self.place is None else self.place.name

    @property
    def size_bytes(self) -> int | None:
        return None if self.place is None else size_of(self.place)

    def fingerprint(self) -> str:
        return "-" if self.place is None else fingerprint_of(self.place)

    def kept_types(self) -> dict[str, Any]:
        return {}

    def lines(self, offset: int) -> Iterator[Line]:
        """Yield the lines from an offset on, without byte order mark.

        Raises ConfigError for content that is no text or is damaged, and when standard input ends before the offset.
        """
        with self.opened() as stream:
            at = self._go_to(stream, offset)
            file, plain = stream.file, stream.plain
            end = self.part.end if self.part else None
            while (end is None or at < end) and (line := file.readline(MAX_BYTES)):
                start = at
                at += len(line)
                cut = len(line) == MAX_BYTES and not line.endswith(b"\n")
                rest = line
                while cut and rest and not rest.endswith(b"\n"):
                    rest = file.readline(SKIP_BYTES)
                    at += len(rest)
                if self.place is None:
                    self._stdin_at = at
                content = line.removeprefix(BOM) if at == len(line) else line
                yield Line(content, cut, at, at if plain else stream.position(), start)

    def numbered(self, line: Line, number: int) -> tuple[int, str]:
        """Return the number of the record after a line's, and where the line is, for people. number: of the line's."""
        if self.part is None:
            return number + 1, f"line {number + 1}"
        return line.start + 1, f"byte {line.start}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[ByteStream]:
        """Open the bytes: of a file, from the beginning; of standard input, from where it was read to.

        Raises ConfigError for content that is no text.
        """
        if self.place is None:
            if self._stdin is None:
                self._stdin = opened_stdin()
                self._require_text(self._stdin)
            yield self._stdin
            return
        with opened(self.place) as stream:
            self._require_text(stream)
            yield stream

    def _require_text(self, stream: ByteStream) -> None:
        if problem := problem_of(stream.head()):
            raise ConfigError(f"{'standard input' if self.place is None else self.place} {problem}")

    def _go_to(self, stream: ByteStream, offset: int) -> int:
        if self.part and offset:
            # A cut may lie inside a line, which belongs to the range before it; a position never does.
            at = stream.skip_to(0, offset - 1)
            while line := stream.file.readline(SKIP_BYTES):
                at += len(line)
                if line.endswith(b"\n"):
                    break
            return at
        if self.place is not None:
            return stream.skip_to(0, offset)
        self._stdin_at = stream.skip_to(self._stdin_at, offset)
        if self._stdin_at < offset:
            raise ConfigError("standard input is shorter than when the job began; send the same data again")
        return self._stdin_at


class TextLines(Lines):
    """One text per line; blank lines are skipped."""

    def read(self, start: Position) -> Iterator[Read]:
        number = start.number
        for line in self.lines(start.offset):
            number, place = self.numbered(line, number)
            after = Position(line.at, number, done=line.done)
            if line.cut:
                yield Reject(place, TOO_LONG, after)
                continue
            try:
                text = line.content.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield Reject(place, f"not UTF-8: {error.reason}", after)
                continue
            if text.strip():
                yield Record(None, text, number - 1, after, place)


class CsvLines(Lines):
    """Comma-separated values with a header, which also shows whether the delimiter is a semicolon, tab or bar."""

    def __init__(self, place: Place | None, column: str | None, id_column: str | None, keep: Sequence[str] = ()) -> None:
        """keep: columns that pass to the output, as text."""
        super().__init__(place)
        self._column = column
        self._id_column = id_column
        self._keep = keep
        self._header: list[str] | None = None
        self._header_end = 0
        self._delimiter = ","

    def kept_types(self) -> dict[str, Any]:
        return dict.fromkeys(self._keep, "string")

    def read(self, start: Position) -> Iterator[Read]:
        csv.field_size_limit(MAX_BYTES)  # the default is 128 KiB
        header = self._read_header()
        text_at = header.index(choose_column(self._column, header, self.name))
        id_at = None if self._id_column is None else header.index(choose_column(self._id_column, header, self.name))
        kept_at = {name: header.index(choose_column(name, header, self.name)) for name in self._keep}
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
            reason = reason or (TOO_LONG if feed.cut else _defect(row, header))
            after, place = Position(feed.at, number, done=feed.done), f"row {number}"
            if reason is not None:
                yield Reject(place, reason, after)
            elif id_at is not None and not row[id_at]:
                yield Reject(place, f"the column {self._id_column!r} is empty", after)
            else:
                record = Record(None if id_at is None else row[id_at], row[text_at], number - 1, after, place)
                yield record._replace(kept={name: row[at] for name, at in kept_at.items()}) if kept_at else record

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
    """Lines as text for the csv module, which takes as many as a record has. at, done: of the next line, as in Line."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.at = 0
        self.done = 0
        self.cut = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.at, self.done = line.at, line.done
        self.cut = self.cut or line.cut
        return line.content.decode(errors="surrogateescape")


def stdin_lines() -> Iterator[str]:
    """Yield the lines of standard input that are not blank. Raises ConfigError for a line that is no text in UTF-8."""
    for read in TextLines(None).read(Position()):
        if isinstance(read, Reject):
            raise ConfigError(f"{read.place} of standard input is {read.reason}")
        yield read.text


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
    if any(SURROGATE.search(field) for field in row):
        return "not UTF-8"
    return None
