"""The write buffer: rows that are not on disk yet, and keys of rows that were asked for again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from edgeembed.cache.disk import DiskItem

MOST_BYTES = 16 * 2**20
"""Limit of buffered rows; while a slow disk keeps it full, new rows stay in memory only."""
ROWS_AT_ONCE = 64
"""Rows of one write; lookups are answered between two writes."""
_TOUCHED_AT_ONCE = 256


class WriteBuffer:
    """Rows to write and keys to protect. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self.touched: set[bytes] = set()
        """Keys of rows that were asked for again."""
        self._rows: dict[bytes, DiskItem] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __bool__(self) -> bool:
        return bool(self._rows or self.touched)

    def add(self, item: DiskItem) -> None:
        """Add a row, in place of an older one with its key; it is dropped when the buffer is full."""
        if self._bytes >= MOST_BYTES:
            return
        if (old := self._rows.pop(item.key, None)) is not None:
            self._bytes -= len(old.value)
        self._rows[item.key] = item
        self._bytes += len(item.value)

    def keys(self) -> Iterable[bytes]:
        """Return the keys of the rows."""
        return self._rows.keys()

    def value(self, key: bytes) -> bytes | None:
        """Return the value of a row."""
        item = self._rows.get(key)
        return None if item is None else item.value

    def batch(self) -> list[DiskItem]:
        """Return the rows to write next; they stay in the buffer until `written` is called with them."""
        return list(islice(self._rows.values(), ROWS_AT_ONCE))

    def written(self, items: Sequence[DiskItem]) -> None:
        """Remove rows, unless a newer one with the same key was added meanwhile."""
        for item in items:
            if self._rows.get(item.key) is item:
                del self._rows[item.key]
                self._bytes -= len(item.value)

    def take_touched(self) -> list[bytes]:
        """Remove and return the next keys to protect."""
        taken = list(islice(self.touched, _TOUCHED_AT_ONCE))
        self.touched.difference_update(taken)
        return taken

    def clear(self) -> None:
        """Drop everything."""
        self._rows.clear()
        self._bytes = 0
        self.touched.clear()
