"""The hot tier: rows in memory, bounded in bytes, least recently used ones leave first."""

from __future__ import annotations

from collections import OrderedDict

from edgeembed.engine.protocol import Row

OVERHEAD_BYTES = 400
"""What an entry costs besides its vector's numbers: key, tuple, array object, place in the dictionary."""


class MemoryTier:
    """A dictionary of rows that never holds more than `capacity` bytes. Used on the event loop's thread only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bytes = 0
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Row | None:
        """Give a row and mark it as used."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: Row) -> None:
        """Keep a row; others leave until it fits. A row larger than the tier is not kept."""
        size = _size(row)
        if size > self.capacity:
            return
        old = self._rows.pop(key, None)
        if old is not None:
            self.bytes -= _size(old)
        self._rows[key] = row
        self.bytes += size
        while self.bytes > self.capacity:
            _, evicted = self._rows.popitem(last=False)
            self.bytes -= _size(evicted)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self.bytes = 0


def _size(row: Row) -> int:
    return int(row.vector.nbytes) + OVERHEAD_BYTES
