"""One request to upstream: its texts get their rows, or go back in the queue, or to the fallback, or fail."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edgeembed.engine.canary import defect
from edgeembed.engine.interface import Row
from edgeembed.engine.text_sizes import tokens_at_most
from edgeembed.errors import BadVectorError, EngineError, EngineTimeoutError, EngineUnavailableError, RequestError
from edgeembed.upstream.client import BusyError, RefusedError, UnavailableError, UpstreamClient
from edgeembed.upstream.fallback import Fallback
from edgeembed.upstream.health import HealthMonitor
from edgeembed.upstream.order import Layout, OrderCheck
from edgeembed.upstream.queue import PendingText, TextQueue
from edgeembed.upstream.rechecks import Rechecks
from edgeembed.upstream.remote import Remote
from edgeembed.upstream.wire import UpstreamAnswer, says_too_long, spread

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""A text fails once so many requests with it ended in a closed connection or in vectors of another model."""
_SERVER_ERROR = 500
_LIKELY = 4
"""A count of tokens beyond so many times what a text can have, as by a prompt of the server's own, is none."""


class Sending:
    """Sends texts to one identity of an upstream model. Everything runs on one event loop."""

    def __init__(
        self, remote: Remote, client: UpstreamClient, health: HealthMonitor, queue: TextQueue, fallback: Fallback
    ) -> None:
        """client: sends. health: hears how it went. fallback: takes texts that were not answered."""
        self._remote = remote
        self._options = remote.options
        self._identity = remote.identity
        self._client = client
        self._health = health
        self._queue = queue
        self._fallback = fallback
        self._order = OrderCheck(remote.identity, remote.options.min_cosine, remote.options.recheck_every)
        self.rechecks = Rechecks(self._order, health, remote.options, self._embed)
        self.requests = self.retries = self.refusals = 0
        self.texts_computed = self.tokens_computed = 0

    async def send(self, texts: Sequence[PendingText]) -> bool:
        """Send texts and set their rows; return whether all got one. After a passing failure they go back in the queue."""
        texts = [text for text in texts if not text.future.done()]
        if not texts:
            return True
        self.requests += 1
        try:
            layout = self._order.layout([text.sent for text in texts])
            # Texts of several requests may go into one; their traces cannot, so the first one's is passed on.
            trace = next((text.traceparent for text in texts if text.traceparent is not None), None)
            answer = await self._embed(layout, trace)
        except RefusedError as error:
            return await self._on_refused(texts, error)
        except BusyError as error:
            self._health.failed(error)
            self._retry(texts)
            return False
        except UnavailableError as error:
            self._on_unavailable(texts, error)
            return False
        match self._order.examine(layout, answer.rows):
            case "other vectors":
                self._on_other_vectors(texts)
                return False
            case "wrong rows":
                self._health.distrust("a sentinel text")
        if self._health.over is not None:  # also by another request meanwhile: no row of this identity is used any more
            for text in texts:
                text.fail(self._health.over)
            return False
        self._health.breaker.worked()
        self._on_answer(texts, layout, answer)
        return True

    async def _embed(self, layout: Layout, trace: str | None = None) -> UpstreamAnswer:
        identity = self._identity
        answer = await self._client.embed(
            self._remote.model, layout.sent, identity.encoding, dimensions=identity.dimensions, traceparent=trace
        )
        most = sum(_LIKELY * tokens_at_most(text) for text in layout.sent)
        return answer if answer.tokens is None or answer.tokens <= most else answer._replace(tokens=None)

    def _on_answer(self, texts: Sequence[PendingText], layout: Layout, answer: UpstreamAnswer) -> None:
        rows = [answer.rows[place] for place in layout.places]
        sent = [text.sent for text in texts]
        total = None
        if answer.tokens is not None:
            total = max(len(texts), answer.tokens - self._order.tokens_of_sentinels(layout))
        for text, row, tokens in zip(texts, rows, spread(total, sent), strict=True):
            if reason := defect(row):
                text.fail(BadVectorError(f"upstream returned a row that is {reason}"))
            elif too_long := text.too_long(tokens):
                text.fail(too_long)
            else:
                self.texts_computed += 1
                self.tokens_computed += tokens
                self._order.learn(text.sent, row)
                text.finish(Row(row, tokens))
        self.rechecks.begin(self._queue.most_texts)

    async def _on_refused(self, texts: Sequence[PendingText], error: RefusedError) -> bool:
        """Send the halves, down to the text that is refused; if both succeed, the request was only too large."""
        if len(texts) == 1:
            self.refusals += 1
            texts[0].fail(
                EngineError(f"upstream failed: {error.said}")
                if error.status == _SERVER_ERROR and not says_too_long(error.said)
                else RequestError(f"upstream refuses the text ({error.status}): {error.said}")
            )
            return False
        half = len(texts) // 2
        succeeded = [await self.send(part) for part in (texts[:half], texts[half:])]
        if all(succeeded) and error.status != _SERVER_ERROR and half < self._queue.most_texts:
            self._queue.most_texts = half
            log.info(
                "upstream refuses requests of %d texts (%d); sending %d at a time from now on",
                len(texts),
                error.status,
                half,
            )
        return all(succeeded)

    def _on_unavailable(self, texts: Sequence[PendingText], error: UnavailableError) -> None:
        self._health.failed(error)
        for text in texts:
            text.tries += error.disconnected
        if self._fallback.ready and (error.timed_out or self._health.breaker.state != "closed"):
            self._fallback.answer([text for text in texts if not text.future.done()])
        elif error.timed_out:
            for text in texts:
                text.fail(EngineTimeoutError(f"upstream: {error}"))
        else:
            self._retry(texts)

    def _on_other_vectors(self, texts: Sequence[PendingText]) -> None:
        """Discard rows that came with another model's sentinel row, and check the identity before sending anything else."""
        self._health.failed(UnavailableError("its vectors have changed"), at_once=True)
        for text in texts:
            text.tries += 1
        self._retry(texts)

    def _retry(self, texts: Sequence[PendingText]) -> None:
        """Queue texts again; those that have waited too long or been tried too often fail."""
        again: list[PendingText] = []
        for text in texts:
            if self._health.retry_budget > 0 and text.tries < MOST_TRIES and self._health.over is None:
                again.append(text)
            else:
                text.fail(self._health.over or self.unavailable())
        self.retries += len(again)
        self._queue.put_back(again)

    def unavailable(self) -> EngineUnavailableError:
        """Return the error of a text that can wait no longer."""
        message = f"upstream {self._options.url} is unavailable: {self._health.breaker.reason}"
        if self._fallback.state != "off":
            message += f"; the local fallback does not answer: {self._fallback.reason or 'it is restarting'}"
        return EngineUnavailableError(message, retry_after=max(1.0, self._health.breaker.pause))
