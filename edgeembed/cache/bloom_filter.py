"""Bloom filter: which keys may be on disk, so that most new texts are not looked up there.

A lookup on disk takes two changes of thread, which a lone query waits for, and finds nothing for a new text. A Bloom filter
(Bloom 1970) answers "no" with certainty and otherwise "maybe", wrongly for about one absent key in 1,000 while it is not
overfull. Keys are digests, so pieces of them serve as its hash functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import numpy as np

from edgeembed.cache.database import FAULTS

KEY_BYTES = 32
_PROBES = 6
_BITS_PER_KEY = 16
_LEAST_KEYS = 1 << 16
TRUSTED_SECONDS = 1.0
"""How long the filter is trusted after a check of the database's version; another process may have written since."""

_words = struct.Struct(f"<{_PROBES}I").unpack_from


class BloomFilter:
    """A set of keys, 32 bytes each, that may seem to hold keys which were never added. Keys cannot be removed."""

    def __init__(self, capacity: int) -> None:
        """capacity: number of keys; each takes 2 to 4 bytes."""
        bits = 1 << (max(capacity, _LEAST_KEYS) * _BITS_PER_KEY - 1).bit_length()
        self.capacity = bits // _BITS_PER_KEY
        self.added = 0
        self._mask = min(bits, 1 << 32) - 1
        self._table = bytearray(bits // 8)

    @property
    def is_full(self) -> bool:
        """Whether more keys were added than it is made for, so that "maybe" says little."""
        return self.added > self.capacity

    def add(self, key: bytes) -> None:
        """Add a key."""
        self.added += 1
        for word in _words(key):
            bit = word & self._mask
            self._table[bit >> 3] |= 1 << (bit & 7)

    def add_many(self, keys: bytes) -> None:
        """Add concatenated keys."""
        words = np.frombuffer(keys, dtype="<u4").reshape(-1, KEY_BYTES // 4)[:, :_PROBES]
        self.added += len(words)
        bits = words.ravel() & np.uint32(self._mask)
        table = np.frombuffer(self._table, dtype=np.uint8)
        np.bitwise_or.at(table, bits >> 3, np.left_shift(1, bits & 7).astype(np.uint8))

    def __contains__(self, key: bytes) -> bool:
        table, mask = self._table, self._mask
        return all(table[(word & mask) >> 3] >> (word & 7) & 1 for word in _words(key))


class DiskKeys(Protocol):
    """The part of the disk tier that is needed here."""

    def __len__(self) -> int: ...

    def keys(self, after: bytes = b"") -> list[bytes]: ...


class DiskKeyFilter:
    """Filters out keys that cannot be on disk. Until its Bloom filter is built, in the background, it filters nothing.

    Used on the event loop's thread only.
    """

    def __init__(
        self, on_disk: Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]], buffered: Callable[[], Iterable[bytes]]
    ) -> None:
        """on_disk: runs a function in the disk's thread. buffered: returns the keys in the write buffer."""
        self._on_disk = on_disk
        self._buffered = buffered
        self._filter: BloomFilter | None = None
        self._next_filter: BloomFilter | None = None
        """The filter being built."""
        self._version: tuple[int, int] | None = None
        self._trusted_until = 0.0
        self._building: asyncio.Task[None] | None = None

    @property
    def is_built(self) -> bool:
        """Whether keys can be filtered out."""
        return self._filter is not None

    def among(self, keys: list[bytes]) -> list[bytes]:
        """Return those of the keys that may be on disk."""
        found = self._filter
        if found is None or time.monotonic() >= self._trusted_until:
            return keys
        return [key for key in keys if key in found]

    def add(self, key: bytes) -> None:
        """Note a key that is, or will be, written."""
        for each in (self._filter, self._next_filter):
            if each is not None:
                each.add(key)

    def follow(self, disk: DiskKeys, version: tuple[int, int]) -> None:
        """Note the database's version; rebuild the filter when another process has written since.

        The version must have been read after all our writes so far, whose keys must have been added.
        """
        self._trusted_until = time.monotonic() + TRUSTED_SECONDS
        if version != self._version or (self._filter is not None and self._filter.is_full):
            self._version, self._filter = version, None
        if self._filter is None and self._building is None:
            self._building = asyncio.get_running_loop().create_task(self._build(disk), name="cache-keys")

    async def close(self) -> None:
        """Stop building."""
        if self._building is not None:
            self._building.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._building

    async def _build(self, disk: DiskKeys) -> None:
        """Read the keys on disk in pieces, between which lookups are answered."""
        try:
            while self._filter is None:
                version = self._version
                entries = await self._on_disk(lambda: len(disk))
                self._next_filter = new = BloomFilter(2 * entries)
                for key in self._buffered():  # otherwise those written between two pieces would be missed
                    new.add(key)
                last = b""
                while keys := await self._on_disk(lambda after=last: disk.keys(after)):  # type: ignore[misc]
                    last = keys[-1]
                    new.add_many(b"".join(key for key in keys if len(key) == KEY_BYTES))
                if version == self._version:
                    self._filter = new
        except FAULTS:
            pass  # logged by the next lookup or write; until then nothing is filtered out
        finally:
            self._next_filter = self._building = None
