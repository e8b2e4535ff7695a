"""The memory tier: rows bounded in bytes; those that are asked for repeatedly stay.

W-TinyLFU (Einziger, Friedman and Manes 2017): new rows enter a small LRU window. A row that leaves the window is admitted to
the main part only if the rows that it replaces were asked for less often. The main part has two segments: a hit moves a row
from probation to the protected one. A scan, however long, gets no further than the window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal

from edgeembed.cache.rows import CachedRow
from edgeembed.cache.sketch import FrequencySketch

Wanted = Literal["normal", "low", "keep"]
"""normal: a query, which may come again. low: part of a bulk load, or a document; takes only free space. keep: will be asked
for again."""

OVERHEAD_BYTES = 560
"""Memory of an entry besides its vector's numbers: key, tuple, numbers, array object, slot in the dictionary. Measured."""
_WINDOW = 0.02
_PROTECTED = 0.8
"""Share of the main part."""
_ENTRY_BYTES = 1024
"""Size of an entry that the sketch is made for; with smaller ones its estimates are a little coarser."""


class _Segment:
    """Rows, least recently used first, and their bytes."""

    __slots__ = ("bytes", "rows")

    def __init__(self) -> None:
        self.rows: OrderedDict[bytes, CachedRow] = OrderedDict()
        self.bytes = 0

    def put(self, key: bytes, row: CachedRow) -> None:
        self.rows[key] = row
        self.bytes += _size(row)

    def pop(self, key: bytes) -> CachedRow:
        row = self.rows.pop(key)
        self.bytes -= _size(row)
        return row

    def pop_oldest(self) -> tuple[bytes, CachedRow]:
        key, row = self.rows.popitem(last=False)
        self.bytes -= _size(row)
        return key, row


class MemoryTier:
    """Rows by key in at most `capacity` bytes, the sketch included. Used on the event loop's thread only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.promoted: set[bytes] = set()
        """Keys that were asked for again, for the disk tier, which takes them out."""
        self._sketch = FrequencySketch(capacity // _ENTRY_BYTES)
        room = max(0, capacity - self._sketch.size_bytes)
        self._window_bytes = int(room * _WINDOW)
        self._main_bytes = room - self._window_bytes
        self._protected_bytes = int(self._main_bytes * _PROTECTED)
        self._window = _Segment()
        self._probation = _Segment()
        self._protected = _Segment()

    def __len__(self) -> int:
        return len(self._window.rows) + len(self._probation.rows) + len(self._protected.rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._protected.rows or key in self._probation.rows or key in self._window.rows

    @property
    def used_bytes(self) -> int:
        """Bytes taken by rows."""
        return self._window.bytes + self._probation.bytes + self._protected.bytes

    @property
    def often_used(self) -> Iterable[bytes]:
        """Keys of the protected rows."""
        return self._protected.rows.keys()

    def peek(self, key: bytes) -> CachedRow | None:
        """Return a row without counting the lookup."""
        return self._protected.rows.get(key) or self._probation.rows.get(key) or self._window.rows.get(key)

    def get(self, key: bytes) -> CachedRow | None:
        """Return a row and count the lookup, even if there is none."""
        row = self.hit(key)
        if row is None and self.capacity:
            self._sketch.add(key)
        return row

    def hit(self, key: bytes) -> CachedRow | None:
        """Return a row and count the lookup if there is one."""
        protected = self._protected.rows
        if (row := protected.get(key)) is not None:
            # A protected row's frequency is not needed; not counting it costs no hits (tests/benchmarks/cache_scan.py).
            self._sketch.age()
            protected.move_to_end(key)
        elif (row := self._window.rows.get(key)) is not None:
            self._sketch.add(key)
            self._window.rows.move_to_end(key)
        elif key in self._probation.rows:
            self._sketch.add(key)
            row = self._probation.pop(key)
            self._protect(key, row)
        return row

    def put(self, key: bytes, row: CachedRow, wanted: Wanted = "normal") -> None:
        """Store a row if it is worth it. One that is stored already keeps its place."""
        size = _size(row)
        if size > self._main_bytes:
            return
        if (home := self._home(key)) is not None:
            home.bytes += size - _size(home.rows[key])
            home.rows[key] = row
            self._shrink()
        elif wanted == "keep":
            self._protect(key, row)
            self._shrink()
        elif wanted == "low":
            if self._main_bytes - self._probation.bytes - self._protected.bytes >= size:
                self._probation.put(key, row)
        else:
            self._window.put(key, row)
            while self._window.bytes > self._window_bytes:
                self._admit(*self._window.pop_oldest())
        self._sketch.resize(max(256, len(self)))

    def drop(self, key: bytes) -> None:
        """Remove one row."""
        if (home := self._home(key)) is not None:
            home.pop(key)
        self.promoted.discard(key)

    def drop_models(self, matches: Callable[[str], bool]) -> int:
        """Remove the rows of models whose label matches; return how many there were."""
        segments = (self._window, self._probation, self._protected)
        keys = [key for segment in segments for key, row in segment.rows.items() if matches(row.model)]
        for key in keys:
            self.drop(key)
        return len(keys)

    def clear(self) -> None:
        """Remove everything."""
        for segment in (self._window, self._probation, self._protected):
            segment.rows.clear()
            segment.bytes = 0
        self.promoted.clear()
        self._sketch.clear()

    def _home(self, key: bytes) -> _Segment | None:
        for segment in (self._protected, self._probation, self._window):
            if key in segment.rows:
                return segment
        return None

    def _protect(self, key: bytes, row: CachedRow) -> None:
        self._protected.put(key, row)
        self.promoted.add(key)
        while self._protected.bytes > self._protected_bytes and len(self._protected.rows) > 1:
            self._probation.put(*self._protected.pop_oldest())

    def _admit(self, key: bytes, row: CachedRow) -> None:
        """Move a row to the main part if all rows that it would replace were asked for less often."""
        wanted = _size(row) - (self._main_bytes - self._probation.bytes - self._protected.bytes)
        if wanted > 0:
            frequency = self._sketch.estimate(key)
            victims: list[tuple[_Segment, bytes]] = []
            for segment in (self._probation, self._protected):
                for victim, old in segment.rows.items():
                    if wanted <= 0:
                        break
                    if self._sketch.estimate(victim) >= frequency:
                        return
                    victims.append((segment, victim))
                    wanted -= _size(old)
            for segment, victim in victims:
                segment.pop(victim)
        self._probation.put(key, row)

    def _shrink(self) -> None:
        while self._probation.bytes + self._protected.bytes > self._main_bytes:
            (self._probation if self._probation.rows else self._protected).pop_oldest()
        while self._window.bytes > self._window_bytes:
            self._admit(*self._window.pop_oldest())


def _size(row: CachedRow) -> int:
    return int(row.vector.nbytes) + OVERHEAD_BYTES
