"""Texts that are being computed: equal ones of several requests are computed once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edgeembed.engine.interface import Priority, Row, Text
from edgeembed.models.pool import Lease

Landed = Callable[[bytes, Row], None]


class TextError(Exception):
    """The engine has no row for the text with this key."""

    def __init__(self, key: bytes, error: BaseException) -> None:
        super().__init__(str(error))
        self.key = key
        self.error = error


class _Flight:
    """One text that is being computed, and how many requests wait for it."""

    __slots__ = ("future", "waiters")

    def __init__(self, future: asyncio.Future[Row]) -> None:
        self.future = future
        self.waiters = 0


class Flights:
    """Texts in flight by their key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight] = {}

    async def compute(
        self, lease: Lease, texts: Mapping[bytes, Text], priority: Priority, landed: Landed, *, isolated: bool = False
    ) -> dict[bytes, Row]:
        """Compute rows, joining texts that other requests are computing already. Raises TextError.

        isolated: joins nothing, and nothing joins these: another request's texts would change what shares a batch.

        A text that nobody waits for any more gives up its place in the queue. `landed` is called with the row of each text
        that was not in flight before, also when this request has failed or gone meanwhile.
        """
        if isolated:
            return await _isolated(lease, texts, priority)
        new = {key: text for key, text in texts.items() if key not in self._flights}
        futures = lease.submit(list(new.values()), priority)
        for key, future in zip(new, futures, strict=True):
            self._flights[key] = _Flight(future)
            future.add_done_callback(lambda done, key=key: self._land(key, done, landed))  # type: ignore[misc]
        joined = {key: self._flights[key] for key in texts}
        for flight in joined.values():
            flight.waiters += 1
        try:
            await asyncio.wait([flight.future for flight in joined.values()], return_when=asyncio.FIRST_EXCEPTION)
            for key, flight in joined.items():
                if flight.future.done() and (error := flight.future.exception()):
                    raise TextError(key, error)
            return {key: flight.future.result() for key, flight in joined.items()}
        finally:
            for key, flight in joined.items():
                flight.waiters -= 1
                if flight.waiters == 0 and not flight.future.done():
                    self._flights.pop(key, None)
                    flight.future.cancel()

    def _land(self, key: bytes, future: asyncio.Future[Row], landed: Landed) -> None:
        """Take a finished text out of flight and hand its row on."""
        flight = self._flights.get(key)
        if flight is not None and flight.future is future:
            del self._flights[key]
        if not future.cancelled() and future.exception() is None:
            landed(key, future.result())


async def _isolated(lease: Lease, texts: Mapping[bytes, Text], priority: Priority) -> dict[bytes, Row]:
    futures = lease.submit(list(texts.values()), priority, isolated=True)
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        for key, future in zip(texts, futures, strict=True):
            if future.done() and (error := future.exception()):
                raise TextError(key, error)
        return {key: future.result() for key, future in zip(texts, futures, strict=True)}
    finally:
        for future in futures:
            future.cancel()
            # Of several that fail only the first one is told.
            if future.done() and not future.cancelled():
                future.exception()
