"""The health of the upstream server: whether it answers, and whether it still serves the same model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from edgeembed.errors import EngineUnavailableError, ModelReplacedError
from edgeembed.upstream.breaker import Breaker
from edgeembed.upstream.client import BusyError, UnavailableError, UpstreamClient, UpstreamError
from edgeembed.upstream.identity import least_cosine, misplaced
from edgeembed.upstream.remote import Remote

log = logging.getLogger(__name__)


class HealthMonitor:
    """Owns the circuit breaker, probes upstream while it is open, and embeds the canary texts at intervals."""

    def __init__(self, remote: Remote, client: UpstreamClient, changed: Callable[[], None]) -> None:
        """Take what to watch. changed: called when waiting texts may be sent again, or never will be."""
        self.breaker = Breaker()
        self.over: EngineUnavailableError | None = None
        """Set once upstream gives other vectors than those of this identity, or rows of other texts."""
        self._remote = remote
        self._options = remote.options
        self._identity = remote.identity
        self._served = remote.served()
        self._client = client
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None

    @property
    def given_up(self) -> bool:
        """Whether nothing is sent any more, not even a probe: rows of other texts came back again and again."""
        return self._remote.faults > 1

    @property
    def retry_budget(self) -> float:
        """Seconds for which texts still wait while upstream is unavailable; 0 or less when their time is up."""
        away = self.breaker.away_since
        if self.given_up:
            return 0.0
        return self._options.wait - (time.monotonic() - away if away is not None else 0.0)

    async def start(self) -> None:
        """Check the identity and start watching, even without upstream. Raises ModelReplacedError for another model."""
        if self.given_up:
            self.failed(UnavailableError("it returned rows of other texts; repair it and restart this daemon"), at_once=True)
            return
        try:
            await self._check_identity()
        except UpstreamError as error:
            self.failed(error, at_once=True)
        if self.over is not None:
            raise self.over
        self._spawn(self._check_regularly(), "upstream check")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self, error: UpstreamError, *, at_once: bool = False) -> None:
        """Record a failed request. at_once: open the breaker now, so that only probes are sent."""
        if isinstance(error, BusyError) and not at_once:
            self.breaker.busy(str(error), error.retry_after)
            return
        before = self.breaker.opened
        retry_after = error.retry_after if isinstance(error, UnavailableError | BusyError) else None
        no_connection = isinstance(error, UnavailableError) and error.no_connection
        self.breaker.failed(str(error), retry_after, at_once=at_once or no_connection)
        if self.breaker.opened > before:
            log.warning("upstream %s is unavailable: %s", self._options.url, error)
        watched = self.over is None and not self.given_up
        if watched and self.breaker.state != "closed" and (self._prober is None or self._prober.done()):
            self._prober = self._spawn(self._probe_until_back(), "upstream probe")

    async def _probe_until_back(self) -> None:
        """Send the canary texts after each pause until they succeed; nothing else is sent meanwhile."""
        while True:
            await asyncio.sleep(self.breaker.pause)
            self.breaker.probe()
            try:
                await self._check_identity()
                break
            except UpstreamError as error:
                self.failed(error, at_once=True)
        if self.over is None:
            self.breaker.worked()
            log.info("upstream %s is available again, with the same vectors", self._options.url)
        self._changed()

    async def _check_regularly(self) -> None:
        while self.over is None:
            await asyncio.sleep(self._options.check_every)
            if self.breaker.state != "closed":
                continue
            try:
                await self._check_identity()
            except BusyError:
                continue  # the check can wait; requests of clients come first
            except UpstreamError as error:
                self.failed(error)
        self._changed()

    async def _check_identity(self) -> None:
        """Embed the canary texts and end this identity if upstream gives other rows. Raises a subclass of UpstreamError."""
        result = await self._remote.probe(self._client, self._identity)
        expected = self._identity.canary_rows
        if least_cosine(result.rows, expected) >= self._options.min_cosine:
            return
        identity = self._remote.recognise(await self._remote.probe(self._client))
        if identity.digest != self._identity.digest:
            self.replaced()
        elif misplaced(result.rows, expected, self._options.min_cosine):
            self.distrust("the canary texts")

    def replaced(self) -> None:
        """End this identity: upstream serves another model."""
        self.over = ModelReplacedError("upstream serves another model now; send the request again", retry_after=1.0)
        self._remote.on_change(self._served)

    def distrust(self, reason: str) -> None:
        """End this identity, with all its rows in the cache: upstream returned rows of other texts."""
        if self.over is None:
            self.over = self._remote.distrust(reason)
            self._remote.on_change(self._served)
            self._changed()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(log_failure)
        return task


def log_failure(task: asyncio.Task[None]) -> None:
    """Log the exception of a background task that is never awaited."""
    if not task.cancelled() and (error := task.exception()):
        log.error("unexpected error in the task %s", task.get_name(), exc_info=error)
