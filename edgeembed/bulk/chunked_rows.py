"""Cuts the rows of another input into chunks. A position may lie inside a row, at one of its characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edgeembed.bulk.records import Position, Read, Record, Source
from edgeembed.inference.chunking import Chunker


class ChunkedRows:
    """The chunks of the rows of an input, with the ids ID#START-END, in characters of the row's text."""

    def __init__(self, source: Source, chunker: Chunker, *, several: bool) -> None:
        """several: there are other inputs, so that numbers of rows need the name of theirs in front."""
        self._source = source
        self._chunker = chunker
        self._prefix = f"{source.name}:" if several else ""

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def size_bytes(self) -> int | None:
        return self._source.size_bytes

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def kept_types(self) -> Mapping[str, Any]:
        return self._source.kept_types()

    def read(self, start: Position) -> Iterator[Read]:
        here, character = msgspec.structs.replace(start, character=0), start.character
        for read in self._source.read(here):
            if isinstance(read, Record):
                yield from self._chunks(read, here, character)
            else:
                yield read
            here, character = read.after, 0

    def _chunks(self, row: Record, here: Position, first: int) -> Iterator[Record]:
        """Yield the chunks of a row from a character on. here: the position of the row."""
        id_ = f"{self._prefix}{row.number}" if row.id is None else row.id
        empty = True
        for start, end, following in self._chunker.chunks(row.text, first):
            empty = False
            after = row.after if following >= len(row.text) else msgspec.structs.replace(here, character=following)
            place = f"{row.place}#{start}-{end}"
            yield Record(f"{id_}#{start}-{end}", row.text[start:end], row.number, after, place, row.kept_at(start))
        if empty and not first:
            yield row  # it will be refused
