"""Answers as they were written: what a hit needs, and no more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_OVERHEAD_BYTES = 500
"""What an entry costs besides its bytes: its name, and places in the dictionary."""


class Encodings:
    """Encoded answers, bounded in bytes, least recently used ones leave first. Used on the event loop's thread only.

    Only what the hot tier answered gets here, so that a scan does not wash it out.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bytes = 0
        self._encoded: OrderedDict[Hashable, bytes] = OrderedDict()

    def get(self, name: Hashable) -> bytes | None:
        """Give what is kept under a name, and mark it as used."""
        found = self._encoded.get(name)
        if found is not None:
            self._encoded.move_to_end(name)
        return found

    def put(self, name: Hashable, encoded: bytes) -> None:
        """Keep bytes under a name; others leave until they fit. The name holds all that the bytes depend on."""
        size = len(encoded) + _OVERHEAD_BYTES
        if size > self.capacity:
            return
        old = self._encoded.pop(name, None)
        if old is not None:
            self.bytes -= len(old) + _OVERHEAD_BYTES
        self._encoded[name] = encoded
        self.bytes += size
        while self.bytes > self.capacity:
            _, leaving = self._encoded.popitem(last=False)
            self.bytes -= len(leaving) + _OVERHEAD_BYTES

    def clear(self) -> None:
        """Forget everything."""
        self._encoded.clear()
        self.bytes = 0
