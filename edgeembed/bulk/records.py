"""What is read from an input: texts with ids, or why a record cannot be used, each with the position after it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from edgeembed.bulk.places import Place

Id = int | str

MAX_BYTES = 16 * 2**20
"""A longer line, field or row is refused: it would take much memory, and no model accepts such a text."""
TOO_LONG = f"longer than {MAX_BYTES // 2**20} MiB"
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which no text in UTF-8 can hold."""
PAGE = "page"
"""The column with the page of a document on which a text begins, from 1."""


class Position(msgspec.Struct, frozen=True):
    """A position in one input, where reading can start.

    offset: in bytes of a file of lines, rows of a table, or characters of a file in a folder. number: of the next record.
    file: the file in a folder. done: bytes read so far, for progress. character: in the text of the record at `offset`,
    where records are cut into chunks.
    """

    offset: int = 0
    number: int = 0
    file: str = ""
    done: int = 0
    character: int = 0


class Record(NamedTuple):
    """One text. id: from the input; None when no column holds ids. place, after: as in Reject.

    kept: columns of the input that pass to the output, as far as the record has them. pages: where in the text the pages of
    a document begin; empty if it has none.
    """

    id: Id | None
    text: str
    number: int
    after: Position
    place: str
    kept: Mapping[str, Any] = MappingProxyType({})
    pages: Sequence[int] = ()

    def kept_at(self, character: int) -> Mapping[str, Any]:
        """Return what is kept with the part of the text that begins at a character."""
        return {**self.kept, PAGE: max(bisect_right(self.pages, character), 1)} if self.pages else self.kept


class Reject(NamedTuple):
    """A record that cannot be used. place: where in the input, for people: "line 17". after: the next position.

    id: None when unknown. of_all: the reason holds for the other records, too, as far as can be told, such as a field that
    the first one lacks.
    """

    place: str
    reason: str
    after: Position
    id: Id | None = None
    of_all: bool = False


Read = Record | Reject


class Source(Protocol):
    """One input."""

    @property
    def name(self) -> str:
        """The name that the user gave."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """Size; None when unknown."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the input does, so that a job is not resumed with another file."""
        ...

    def kept_types(self) -> Mapping[str, Any]:
        """Return the columns of the output that this input is sure to fill, with their Arrow types or names of types."""
        ...

    def read(self, start: Position) -> Iterator[Read]:
        """Yield the records from a position on. Raises ConfigError when the input as a whole cannot be read."""
        ...


def id_of(value: object) -> Id | None:
    """Return a value as an id, or None when it is neither an integer nor a string with content."""
    if isinstance(value, str):
        return value or None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fingerprint_of(place: Place) -> str:
    """Return a string that changes when a file does. Raises PlaceError, OSError."""
    status = place.require()
    return f"{place.name if place.is_remote else place.local.absolute()} {status.versions()[0]}"


def size_of(place: Place) -> int | None:
    """Return the size of a file in bytes; None if its server does not say. Raises PlaceError, OSError."""
    return place.require().size
