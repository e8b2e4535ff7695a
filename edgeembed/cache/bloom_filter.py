"""Which keys may be on disk, without asking it: most texts that are new are new to the disk, too.

A look at the disk takes two changes of thread, which a lone query waits for, and gives nothing for a text that was never
seen. A Bloom filter (Bloom 1970) says "no" for certain and "maybe" else, wrongly for about one absent key in 1,000 while it
is not overfull. Keys are digests, so pieces of them serve as its hash functions.
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
"""After which the disk is asked anyway: another process may have written there."""

_words = struct.Struct(f"<{_PROBES}I").unpack_from


class KnownKeys:
    """A set of keys, 32 bytes each, that may hold more than was added to it; nothing leaves it."""

    def __init__(self, room: int) -> None:
        """Make an empty set for about so many keys: 2 to 4 bytes each."""
        bits = 1 << (max(room, _LEAST_KEYS) * _BITS_PER_KEY - 1).bit_length()
        self.room = bits // _BITS_PER_KEY
        self.added = 0
        self._mask = min(bits, 1 << 32) - 1
        self._table = bytearray(bits // 8)

    @property
    def is_full(self) -> bool:
        """Whether so many keys were added that "maybe" says little."""
        return self.added > self.room

    def add(self, key: bytes) -> None:
        """Add a key."""
        self.added += 1
        for word in _words(key):
            bit = word & self._mask
            self._table[bit >> 3] |= 1 << (bit & 7)

    def add_many(self, keys: bytes) -> None:
        """Add keys that are strung together."""
        words = np.frombuffer(keys, dtype="<u4").reshape(-1, KEY_BYTES // 4)[:, :_PROBES]
        self.added += len(words)
        bits = words.ravel() & np.uint32(self._mask)
        table = np.frombuffer(self._table, dtype=np.uint8)
        np.bitwise_or.at(table, bits >> 3, np.left_shift(1, bits & 7).astype(np.uint8))

    def __contains__(self, key: bytes) -> bool:
        table, mask = self._table, self._mask
        return all(table[(word & mask) >> 3] >> (word & 7) & 1 for word in _words(key))


class Disk(Protocol):
    """What is asked of the disk tier."""

    def __len__(self) -> int: ...

    def keys(self, behind: bytes = b"") -> list[bytes]: ...


class KeysOnDisk:
    """Knows which keys may be on disk, or learns it in the background and says "all of them" meanwhile.

    Used on the event loop's thread only. on_disk: runs something in the disk's thread. unwritten: gives the keys that wait
    to be written.
    """

    def __init__(
        self, on_disk: Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]], unwritten: Callable[[], Iterable[bytes]]
    ) -> None:
        self._on_disk = on_disk
        self._unwritten = unwritten
        self._known: KnownKeys | None = None
        self._coming: KnownKeys | None = None
        self._version: tuple[int, int] | None = None
        self._trusted_until = 0.0
        self._learning: asyncio.Task[None] | None = None

    def among(self, keys: list[bytes]) -> list[bytes]:
        """Give those of the keys that may be on disk."""
        known = self._known
        if known is None or time.monotonic() >= self._trusted_until:
            return keys
        return [key for key in keys if key in known]

    def add(self, key: bytes) -> None:
        """Note a key that is, or will be, written."""
        for known in (self._known, self._coming):
            if known is not None:
                known.add(key)

    def follow(self, disk: Disk, version: tuple[int, int]) -> None:
        """Take note of the database's version; learn anew when somebody else has written there since.

        The version must have been read behind whatever of ours was written before, and `add` told of all that.
        """
        self._trusted_until = time.monotonic() + TRUSTED_SECONDS
        if version != self._version or (self._known is not None and self._known.is_full):
            self._version, self._known = version, None
        if self._known is None and self._learning is None:
            self._learning = asyncio.get_running_loop().create_task(self._learn(disk), name="cache-keys")

    async def close(self) -> None:
        """Stop learning."""
        if self._learning is not None:
            self._learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._learning

    async def _learn(self, disk: Disk) -> None:
        """Read the keys on disk; questions come between two pieces."""
        try:
            while self._known is None:
                version = self._version
                entries = await self._on_disk(lambda: len(disk))
                self._coming = known = KnownKeys(2 * entries)
                for key in self._unwritten():  # or they would fall between two pieces
                    known.add(key)
                behind = b""
                while keys := await self._on_disk(lambda behind=behind: disk.keys(behind)):  # type: ignore[misc]
                    behind = keys[-1]
                    known.add_many(b"".join(key for key in keys if len(key) == KEY_BYTES))
                if version == self._version:
                    self._known = known
        except FAULTS:
            pass  # said by whoever reads or writes next; until then nothing is known
        finally:
            self._coming = self._learning = None
