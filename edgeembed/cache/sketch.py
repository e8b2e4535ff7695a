"""Frequency sketch: how often keys were looked up lately, in a fixed amount of memory.

A count-min sketch (Cormode and Muthukrishnan 2005) with conservative updates and ageing, as TinyLFU (Einziger, Friedman and
Manes 2017) uses it for admission. No maintained library has what the cache needs: Theine, the nearest one, is bounded in
entries, not in bytes, does not expose its frequencies, and loses its content to a scan that asks for each text twice
(tests/benchmarks/cache_scan.py).
"""

from __future__ import annotations

import struct

import numpy as np

_ROWS = struct.Struct("<4I")
_DEPTH = 4
_MOST = 15
"""Largest value of a counter, so that rows that were popular long ago can leave."""
_ASKED_PER_ENTRY = 10
"""All counters are halved after this many lookups per entry of the cache (TinyLFU's sample size)."""


class FrequencySketch:
    """Estimates how often a key was looked up, never too low. Keys are digests, so their bytes serve as hashes."""

    def __init__(self, entries: int) -> None:
        """entries: about how many the cache holds; each takes 8 to 16 bytes here."""
        width = 1 << max(10, (2 * entries - 1).bit_length())
        self._width = width
        self._mask = width - 1
        self._counters = bytearray(_DEPTH * width)
        self._asked = 0
        self.sample = _ASKED_PER_ENTRY * entries

    @property
    def size_bytes(self) -> int:
        return len(self._counters)

    def resize(self, entries: int) -> None:
        """Set the number of entries in the cache, which decides when counters are halved."""
        self.sample = _ASKED_PER_ENTRY * entries

    def estimate(self, key: bytes) -> int:
        """Return how often a key was looked up, at most 15."""
        a, b, c, d = _ROWS.unpack_from(key)
        counters, mask, width = self._counters, self._mask, self._width
        least: int = min(
            counters[a & mask],
            counters[width + (b & mask)],
            counters[2 * width + (c & mask)],
            counters[3 * width + (d & mask)],
        )
        return least

    def add(self, key: bytes) -> None:
        """Count a lookup of a key."""
        first, second, third, fourth = _ROWS.unpack_from(key)
        counters, mask, width = self._counters, self._mask, self._width
        a, b, c, d = first & mask, width + (second & mask), 2 * width + (third & mask), 3 * width + (fourth & mask)
        one, two, three, four = counters[a], counters[b], counters[c], counters[d]
        least = min(one, two, three, four)
        if least < _MOST:
            if one == least:
                counters[a] = least + 1
            if two == least:
                counters[b] = least + 1
            if three == least:
                counters[c] = least + 1
            if four == least:
                counters[d] = least + 1
        self.age()

    def age(self) -> None:
        """Count a lookup without a key: it only brings the next halving of all counters nearer."""
        self._asked += 1
        if self._asked >= self.sample:
            self._asked //= 2
            halved = np.frombuffer(self._counters, dtype=np.uint8)
            halved >>= 1

    def clear(self) -> None:
        """Set all counters to zero."""
        self._counters[:] = bytes(len(self._counters))
        self._asked = 0
