"""Single flight: equal texts of several requests are computed once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from edgeembed.engine.interface import DENSE, Output, Priority, Row, Text
from edgeembed.errors import EdgeEmbedError
from edgeembed.models.pool import Lease

MOST_ATTEMPTS = 4
"""After so many, rows of isolated texts are returned as they came, though workers end each time."""

OnResult = Callable[[bytes, Row], None]

log = logging.getLogger(__name__)


class TextError(Exception):
    """The engine has no row for the text with this key."""

    def __init__(self, key: bytes, error: BaseException) -> None:
        super().__init__(str(error))
        self.key = key
        self.error = error


class _Computation:
    """One text that is being computed, and how many requests wait for it."""

    __slots__ = ("future", "waiters")

    def __init__(self, future: asyncio.Future[Row]) -> None:
        self.future = future
        self.waiters = 0


class SingleFlight:
    """Texts that are being computed, by their key."""

    def __init__(self) -> None:
        self._computations: dict[bytes, _Computation] = {}

    async def compute(
        self,
        lease: Lease,
        texts: Mapping[bytes, Text],
        priority: Priority,
        on_result: OnResult,
        *,
        isolated: bool = False,
        outputs: tuple[Output, ...] = DENSE,
    ) -> dict[bytes, Row]:
        """Return the rows of texts, joining computations that other requests started. Raises TextError.

        A text that no request waits for any more is cancelled. `on_result` is called with the row of each text that this
        call started, even if its request has failed or gone meanwhile.

        isolated: nothing is joined or shared, because another request's texts would change what shares a batch; `on_result`
        is not called. When a worker was replaced, or a batch failed, all are computed again. outputs: see `Engine.submit`;
        the keys tell them apart.
        """
        if isolated:
            return await _compute_isolated(lease, texts, priority, outputs)
        new = {key: text for key, text in texts.items() if key not in self._computations}
        futures = lease.submit(list(new.values()), priority, outputs=outputs)
        for key, future in zip(new, futures, strict=True):
            self._computations[key] = _Computation(future)
            future.add_done_callback(lambda done, key=key: self._finish(key, done, on_result))  # type: ignore[misc]
        joined = {key: self._computations[key] for key in texts}
        for computation in joined.values():
            computation.waiters += 1
        try:
            return await _rows({key: computation.future for key, computation in joined.items()})
        finally:
            for key, computation in joined.items():
                computation.waiters -= 1
                if computation.waiters == 0 and not computation.future.done():
                    self._computations.pop(key, None)
                    computation.future.cancel()

    def _finish(self, key: bytes, future: asyncio.Future[Row], on_result: OnResult) -> None:
        """Forget a finished computation and hand its row on."""
        computation = self._computations.get(key)
        if computation is not None and computation.future is future:
            del self._computations[key]
        if not future.cancelled() and future.exception() is None:
            on_result(key, future.result())


async def _compute_isolated(
    lease: Lease, texts: Mapping[bytes, Text], priority: Priority, outputs: tuple[Output, ...]
) -> dict[bytes, Row]:
    """Return the rows of texts, if possible computed by one worker in the batches that follow from these texts alone.

    When a worker ends, its successor computes the texts that it had begun one by one, maybe in another execution mode: then
    all are computed again, unless the same workers did no better the time before.
    """
    before: set[int] = set()
    rows: dict[bytes, Row] = {}
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            rows = await _computed_once(lease, texts, priority, outputs)
        except (EdgeEmbedError, TextError):
            if not rows:
                raise
            break  # they were warned of
        workers = {row.worker for row in rows.values()}
        if len(workers) == 1 and not any(row.alone for row in rows.values()):
            break
        again = attempt < MOST_ATTEMPTS and workers != before
        log.warning(
            "a worker was replaced, or a batch failed, while %d repeatable texts were computed; %s",
            len(texts),
            "they are computed again" if again else "their last digits may differ from other times",
        )
        if not again:
            break
        before = workers
    return rows


async def _computed_once(
    lease: Lease, texts: Mapping[bytes, Text], priority: Priority, outputs: tuple[Output, ...]
) -> dict[bytes, Row]:
    futures = lease.submit(list(texts.values()), priority, isolated=True, outputs=outputs)
    try:
        return await _rows(dict(zip(texts, futures, strict=True)))
    finally:
        for future in futures:
            future.cancel()
            if future.done() and not future.cancelled():
                future.exception()  # retrieved: the first error is reported


async def _rows(futures: Mapping[bytes, asyncio.Future[Row]]) -> dict[bytes, Row]:
    """Wait for all rows, or for the first failure. Raises TextError."""
    await _settled(futures.values())
    for key, future in futures.items():
        if future.done() and (error := future.exception()):
            raise TextError(key, error)
    return {key: future.result() for key, future in futures.items()}


async def _settled(futures: Collection[asyncio.Future[Row]]) -> None:
    """Wait until all futures are done, or one has failed, as `asyncio.wait` does in twice the time."""
    waiter = asyncio.get_running_loop().create_future()
    left = 0

    def settle(future: asyncio.Future[Row]) -> None:
        nonlocal left
        left -= 1
        if not waiter.done() and (not left or (not future.cancelled() and future.exception() is not None)):
            waiter.set_result(None)

    for future in futures:
        if not future.done():
            left += 1
            future.add_done_callback(settle)
        elif not future.cancelled() and future.exception() is not None:
            waiter.set_result(None)
            break
    try:
        if left and not waiter.done():
            await waiter
    finally:
        for future in futures:
            future.remove_done_callback(settle)
