"""Stored responses: the bodies of responses as they were written, for requests that are repeated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

_OVERHEAD_BYTES = 900
"""What an entry takes besides its body: its name, the keys of a few rows, objects, places in the dictionary."""


class StoredResponse(NamedTuple):
    """The body of a response, and what it was written from: rows by key, a model, and names in this `version`.

    outputs: what it has of each text.
    """

    body: bytes
    keys: tuple[bytes, ...]
    label: str
    model: tuple[str, str]
    version: int
    outputs: tuple[str, ...]


class StoredResponses:
    """Responses by name, bounded in bytes; the least recently used ones are dropped first. For the event loop's thread only.

    Only responses whose rows came from memory are stored, so that a scan does not push the others out.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used_bytes = 0
        self._responses: OrderedDict[Hashable, StoredResponse] = OrderedDict()

    def __len__(self) -> int:
        return len(self._responses)

    def get(self, name: Hashable) -> StoredResponse | None:
        """Return what is stored under a name, and mark it as used."""
        found = self._responses.get(name)
        if found is not None:
            self._responses.move_to_end(name)
        return found

    def put(self, name: Hashable, response: StoredResponse) -> None:
        """Store a response, and drop others until it fits.

        The name identifies everything that the body depends on, except for the version.
        """
        size = len(response.body) + _OVERHEAD_BYTES
        if size > self.capacity:
            return
        old = self._responses.pop(name, None)
        if old is not None:
            self.used_bytes -= len(old.body) + _OVERHEAD_BYTES
        self._responses[name] = response
        self.used_bytes += size
        while self.used_bytes > self.capacity:
            _, dropped = self._responses.popitem(last=False)
            self.used_bytes -= len(dropped.body) + _OVERHEAD_BYTES

    def clear(self) -> None:
        """Drop everything."""
        self._responses.clear()
        self.used_bytes = 0
