"""Reads JSON: an object per line (JSON Lines, positions are bytes), or one array of objects (positions are elements)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from edgeembed.bulk.lines import BOM, ByteRange, Lines
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import MAX_BYTES, SURROGATE, TOO_LONG, Position, Read, Record, Reject, id_of
from edgeembed.errors import ConfigError

JSON_FIELDS = ("text", "query", "input", "content")
"""Fields of a JSON object that may hold the text, unless one is named."""


class JsonRows(Lines):
    """Strings, or objects with fields for the text and optionally the id: one per line, or the elements of an array."""

    def __init__(
        self,
        place: Place | None,
        column: str | None,
        id_column: str | None,
        keep: Sequence[str] = (),
        *,
        fields: Sequence[str] = JSON_FIELDS,
        part: ByteRange | None = None,
    ) -> None:
        """keep: fields that pass to the output. fields: of which the first one found holds the text, without a column."""
        super().__init__(place, part)
        self._columns = (column,) if column else fields
        self._id_column = id_column
        self._keep = keep
        self._is_array: bool | None = None
        self._stdin_elements: Iterator[Any] | None = None
        self._elements_read = 0

    def read(self, start: Position) -> Iterator[Read]:
        if self._is_array is None:
            with self.opened() as stream:
                self._is_array = stream.head().removeprefix(BOM).lstrip().startswith(b"[")
        return self._array(start) if self._is_array else self._lines(start)

    def _lines(self, start: Position) -> Iterator[Read]:
        number, first = start.number, not start.offset
        for line in self.lines(start.offset):
            number, place = self.numbered(line, number)
            after = Position(line.at, number, done=line.done)
            if line.cut:
                yield Reject(place, TOO_LONG, after)
                continue
            if not line.content.strip():
                continue
            try:
                value = orjson.loads(line.content)
            except orjson.JSONDecodeError as error:
                over_lines = first and line.content.strip() == b"{"
                reason = (
                    "an object over several lines; expected one per line, or an array"
                    if over_lines
                    else f"not JSON: {error}"
                )
                yield Reject(place, reason, after, of_all=over_lines)
            else:
                yield self._row(value, place, after, first=first)
            first = False

    def _array(self, start: Position) -> Iterator[Read]:
        with self.opened() as stream:
            if self.place is None:
                elements = self._stdin_elements = self._stdin_elements or self._elements(stream.file)
                number = self._elements_read
            else:
                elements, number = self._elements(stream.file), 0
            for value in elements:
                number += 1
                if self.place is None:
                    self._elements_read = number
                if number <= start.offset:
                    continue
                after = Position(number, number, done=stream.position())
                row = self._row(value, f"element {number}", after, first=number == 1)
                # Unlike orjson, ijson may return half characters.
                half = isinstance(row, Record) and SURROGATE.search(row.text)
                yield Reject(row.place, "not UTF-8", row.after, row.id) if half else row

    def _elements(self, file: Any) -> Iterator[Any]:
        """Yield the elements of the array, which is never in memory as a whole. Raises ConfigError for a damaged one."""
        import ijson

        number = 0
        if file.peek(len(BOM)).startswith(BOM):
            file.read(len(BOM))
        try:
            for value in ijson.items(file, "item", use_float=True):
                yield value
                number += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]  # the others show what stands there
            raise ConfigError(f"the JSON array of {self.name} is damaged after element {number:,}: {reason}") from error

    def _row(self, value: Any, place: str, after: Position, *, first: bool) -> Read:
        """Return the record of a value. first: nothing was read before it; a field that it lacks is a mistake."""
        number = after.number - 1
        if isinstance(value, str) and self._id_column is None:
            return Record(None, value, number, after, place)
        if not isinstance(value, dict):
            return Reject(place, "expected a JSON object", after)
        id_ = None
        if self._id_column is not None and (id_ := id_of(value.get(self._id_column))) is None:
            if first and self._id_column not in value:
                return Reject(place, f"no field {self._id_column!r}; it has: {_names(value)}", after, of_all=True)
            return Reject(place, f"the field {self._id_column!r} is neither a string nor an integer", after)
        field = next((name for name in self._columns if name in value), None)
        if field is None:
            reason = f"no field {' or '.join(map(repr, self._columns))}"
            if first:
                reason += f"; it has: {_names(value)}. Name the one that holds the texts with --column"
            return Reject(place, reason, after, id_, of_all=first)
        text = value[field]
        if not isinstance(text, str):
            return Reject(place, f"the field {field!r} is not a string", after, id_)
        if len(text) > MAX_BYTES:
            return Reject(place, TOO_LONG, after, id_)
        if not self._keep:
            return Record(id_, text, number, after, place)
        kept = {name: value[name] for name in self._keep if name in value}
        return Record(id_, text, number, after, place, kept)


def _names(value: dict[str, Any]) -> str:
    return ", ".join(list(value)[:30]) or "no fields"
