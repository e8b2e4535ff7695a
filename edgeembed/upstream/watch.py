"""Watching the other side: whether it is there, and whether it is still who it was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from edgeembed.errors import ModelReplacedError
from edgeembed.upstream.breaker import Breaker
from edgeembed.upstream.client import BusyError, UnavailableError, UpstreamClient, UpstreamError
from edgeembed.upstream.identity import least_cosine
from edgeembed.upstream.remote import Remote

log = logging.getLogger(__name__)


class HealthMonitor:
    """Keeps the breaker, probes while it is open, and embeds the canary texts now and then."""

    def __init__(self, remote: Remote, client: UpstreamClient, changed: Callable[[], None]) -> None:
        """Prepare. changed: called when texts that wait may be sent again, or never will be."""
        self.breaker = Breaker()
        self.over: ModelReplacedError | None = None
        """Set once upstream is known to give other vectors than those that it was met with."""
        self._remote = remote
        self._options = remote.options
        self._identity = remote.identity
        self._served = remote.served()
        self._client = client
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None

    @property
    def retry_budget(self) -> float:
        """Seconds for which texts wait still, as upstream is away; 0 or less when they have waited enough."""
        away = self.breaker.away_since
        return self._options.wait - (time.monotonic() - away if away is not None else 0.0)

    async def start(self) -> None:
        """Look who is there. Nobody: that is watched. Raises ModelReplacedError for somebody else."""
        try:
            await self._same_as_before()
        except UpstreamError as error:
            self.failed(error, at_once=True)
        if self.over is not None:
            raise self.over
        self._spawn(self._check_now_and_then(), "upstream check")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self, error: UpstreamError, *, at_once: bool = False) -> None:
        """Note that a request has failed; at_once: one is enough to send nothing but probes."""
        if isinstance(error, BusyError) and not at_once:
            self.breaker.busy(str(error), error.seconds)
            return
        before = self.breaker.opened
        seconds = error.seconds if isinstance(error, UnavailableError | BusyError) else None
        gone = isinstance(error, UnavailableError) and error.gone
        self.breaker.failed(str(error), seconds, at_once=at_once or gone)
        if self.breaker.opened > before:
            log.warning("upstream %s is away: %s", self._options.url, error)
        if self.breaker.state != "closed" and self.over is None and (self._prober is None or self._prober.done()):
            self._prober = self._spawn(self._probe_until_back(), "upstream probe")

    async def _probe_until_back(self) -> None:
        """Send canary texts now and then; nothing else is sent before they come out right."""
        while True:
            await asyncio.sleep(self.breaker.pause)
            self.breaker.probe()
            try:
                await self._same_as_before()
                break
            except UpstreamError as error:
                self.failed(error, at_once=True)
        if self.over is None:
            self.breaker.worked()
            log.info("upstream %s is back, with the same vectors", self._options.url)
        self._changed()

    async def _check_now_and_then(self) -> None:
        while self.over is None:
            await asyncio.sleep(self._options.check_every)
            if self.breaker.state != "closed":
                continue
            try:
                await self._same_as_before()
            except BusyError:
                continue  # no time for questions that nobody waits for
            except UpstreamError as error:
                self.failed(error)
        self._changed()

    async def _same_as_before(self) -> None:
        """Embed all canary texts. When other rows come, this identity is over, and whoever asks again finds the new one.

        Raises UpstreamError's kinds.
        """
        sight = await self._remote.look(self._client, self._identity)
        if least_cosine(sight.rows, self._identity.canary_rows) >= self._options.min_cosine:
            return
        identity = self._remote.recognise(await self._remote.look(self._client))
        if identity.digest != self._identity.digest:
            self.over = ModelReplacedError("upstream has another model now; ask again", retry_after=1.0)
            self._remote.on_change(self._served)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(log_failure)
        return task


def log_failure(task: asyncio.Task[None]) -> None:
    """Let nobody miss a bug in what runs beside the requests."""
    if not task.cancelled() and (error := task.exception()):
        log.error("%s failed for a reason that nobody foresaw", task.get_name(), exc_info=error)
