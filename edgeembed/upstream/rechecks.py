"""Asks upstream again for a sample of texts: their rows must be those that it returned before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgeembed.upstream.client import UpstreamError, UpstreamOptions
from edgeembed.upstream.health import HealthMonitor, log_failure
from edgeembed.upstream.order import Layout, OrderCheck
from edgeembed.upstream.wire import UpstreamAnswer

COLLECT_SECONDS = 0.25
"""Time in which texts are collected for one request."""


class Rechecks:
    """Sends one request at a time, beside those of clients. Everything runs on one event loop."""

    def __init__(
        self,
        order: OrderCheck,
        health: HealthMonitor,
        options: UpstreamOptions,
        embed: Callable[[Layout], Awaitable[UpstreamAnswer]],
    ) -> None:
        """Take what collects the texts, what is told about a fault, and what sends a request."""
        self._order = order
        self._health = health
        self._options = options
        self._embed = embed
        self.task: asyncio.Task[None] | None = None
        """The one that sends; done when there is nothing to ask again."""

    def begin(self, most_texts: int) -> None:
        """Ask again for the texts that were collected, if there are any, at most so many in one request."""
        if self._order.has_samples and (self.task is None or self.task.done()):
            self.task = asyncio.create_task(self._run(most_texts), name="upstream recheck")
            self.task.add_done_callback(log_failure)

    async def _run(self, most_texts: int) -> None:
        while self._health.over is None:
            await asyncio.sleep(COLLECT_SECONDS)
            samples = self._order.take_samples(most_texts, self._options.most_characters)
            if not samples or self._health.breaker.state != "closed":
                return
            layout = self._order.layout([text for text, _ in samples])
            try:
                answer = await self._embed(layout)
            except UpstreamError:
                return  # the requests of clients show what is wrong
            verdict = self._order.examine(layout, answer.rows)
            found = [answer.rows[place] for place in layout.places]
            if verdict == "wrong rows":
                self._health.distrust("a sentinel text")
            elif verdict == "right" and not self._order.repeats(found, [row for _, row in samples]):
                self._health.distrust("a text that was asked again")
