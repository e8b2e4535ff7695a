"""What the inputs give, one at a time: texts with their ids, or why there is none; and where reading goes on after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

Id = int | str

MOST_BYTES = 16 * 2**20
"""A longer line, field or row is refused instead of read: no model takes such a text, and memory has an end."""


class Position(msgspec.Struct, frozen=True):
    """Where reading one input goes on. offset: bytes of a file of lines, rows of a table, characters of a folder's file.

    number: records before; file: of a folder, the file; done: bytes behind, for the progress.
    """

    offset: int = 0
    number: int = 0
    file: str = ""
    done: int = 0


class Record(NamedTuple):
    """One text. id: what the input calls it, or None where it was not asked. place, after: as of a Reject."""

    id: Id | None
    text: str
    number: int
    after: Position
    place: str


class Reject(NamedTuple):
    """What could not be read. place: where in the input, for a person: "line 17". after: where reading goes on.

    id: where it is known.
    """

    place: str
    reason: str
    after: Position
    id: Id | None = None


Read = Record | Reject


class Source(Protocol):
    """One input."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """Bytes to read; None when nobody knows."""
        ...

    def fingerprint(self) -> str:
        """Give what changes when the input does, so that a job never goes on with another file."""
        ...

    def read(self, start: Position) -> Iterator[Read]:
        """Give what is there from a place on. Raises ConfigError when the whole input is not what it should be."""
        ...


def id_of(value: object) -> Id | None:
    """Take a value as an id; None when it is none: an id is a number without a fraction, or a string."""
    if isinstance(value, str):
        return value or None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
