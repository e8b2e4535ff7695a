"""What waits for the disk: rows, and news of rows that were asked for again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from edgeembed.cache.disk import DiskItem

MOST_BYTES = 16 * 2**20
"""Rows waiting for a slow disk; beyond that, new ones stay in the hot tier only."""
ROWS_AT_ONCE = 64
"""Rows of one write; reads come between two of them."""
_TOUCHED_AT_ONCE = 256


class Unwritten:
    """Rows and keys that are not on disk yet. Used on the event loop's thread only."""

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
        """Let a row wait, in place of an older one under its key; it is dropped when too many wait already."""
        if self._bytes >= MOST_BYTES:
            return
        if (old := self._rows.pop(item.key, None)) is not None:
            self._bytes -= len(old.value)
        self._rows[item.key] = item
        self._bytes += len(item.value)

    def keys(self) -> Iterable[bytes]:
        """Give the keys of the rows."""
        return self._rows.keys()

    def value(self, key: bytes) -> bytes | None:
        """Give the value that waits under a key."""
        item = self._rows.get(key)
        return None if item is None else item.value

    def batch(self) -> list[DiskItem]:
        """Give the rows that come next; they wait on until `written` is told of them."""
        return list(islice(self._rows.values(), ROWS_AT_ONCE))

    def written(self, items: Sequence[DiskItem]) -> None:
        """Take rows out, unless a newer one came under the same key meanwhile."""
        for item in items:
            if self._rows.get(item.key) is item:
                del self._rows[item.key]
                self._bytes -= len(item.value)

    def take_touched(self) -> list[bytes]:
        """Take out the keys that come next."""
        taken = list(islice(self.touched, _TOUCHED_AT_ONCE))
        self.touched.difference_update(taken)
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._bytes = 0
        self.touched.clear()
