"""An `Engine` (see engine/interface.py) that sends texts to another server, in OpenAI's protocol.

Every request carries sentinel texts besides the texts to embed, at random places, and its rows are used only if those of
the sentinel texts are the expected ones: a server that was replaced, reloaded or put behind a load balancer cannot return
vectors of another model. A sample of the texts is asked again, as a server may mix up rows that are all of the right model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeembed.common.status import EngineStatus, UpstreamStatus
from edgeembed.engine.canary import defect
from edgeembed.engine.interface import (
    BULK,
    DENSE,
    INTERACTIVE,
    Engine,
    ModelInfo,
    Output,
    Priority,
    Row,
    Text,
    Tokenized,
    TokenWant,
)
from edgeembed.engine.text_sizes import tokens_at_most
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    RequestError,
)
from edgeembed.upstream.client import BusyError, RefusedError, UnavailableError, UpstreamClient
from edgeembed.upstream.fallback import Fallback
from edgeembed.upstream.health import HealthMonitor, log_failure
from edgeembed.upstream.order import Layout, OrderCheck, texts_beside_sentinels
from edgeembed.upstream.queue import PendingText, TextQueue, pending_text
from edgeembed.upstream.rechecks import Rechecks
from edgeembed.upstream.remote import REMOTE_TYPE, Remote
from edgeembed.upstream.wire import UpstreamAnswer, says_too_long, spread

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""A text fails once so many requests with it ended in a closed connection or in vectors of another model."""
_SERVER_ERROR = 500
_LIKELY = 4
"""A count of tokens beyond so many times what a text can have, as by a prompt of the server's own, is none."""
_SOON = 0.001
"""Seconds; the least delay of a timer, so that it cannot spin."""


@dataclass(eq=False)
class _UpstreamRequest:
    """A request in flight."""

    texts: Sequence[PendingText]
    priority: Priority
    since: float = field(default_factory=time.time)
    """Unix seconds."""
    task: asyncio.Task[None] | None = None


class RemoteEngine:
    """One identity of an upstream model. Once upstream serves another model, this engine is over."""

    def __init__(self, remote: Remote, make_fallback: Callable[[], Engine] | None = None) -> None:
        """Take the model; nothing is sent yet. make_fallback: makes the local engine for outages; called in a thread."""
        self._remote = remote
        self._options = remote.options
        self._identity = remote.identity
        self._order = OrderCheck(self._identity, self._options.min_cosine, self._options.recheck_every)
        self._client = UpstreamClient(remote.options)
        self._health = HealthMonitor(remote, self._client, self._wake)
        self._fallback = Fallback(make_fallback, self._identity, self._options.min_cosine)
        most_texts = 1 if remote.faults else texts_beside_sentinels(self._options.most_texts)
        self._queue = TextQueue(most_texts, self._options.most_characters)
        self._rechecks = Rechecks(self._order, self._health, self._options, self._embed)
        self._in_flight: set[_UpstreamRequest] = set()
        self._loading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._started = False
        self._stopped = False
        self._requests = self._retries = self._refusals = 0
        self._texts_computed = self._tokens_computed = 0

    # --- the engine's interface ---------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo | None:
        if not self._started:
            return None
        return ModelInfo(
            architecture="upstream",
            name=self._remote.model,
            dimensions=self._identity.dimensions,
            context_tokens=self._identity.context_tokens,
            pooling="",
            file_type=REMOTE_TYPE,
            parameters=0,
            size_bytes=0,
            llama_cpp="",
            mode=self._mode,
        )

    @property
    def _mode(self) -> str:
        return "upstream" if self._health.breaker.state == "closed" or not self._fallback.ready else "local fallback"

    @property
    def status(self) -> EngineStatus:
        closed, local = self._health.breaker.state == "closed", self._fallback.ready
        reason = f"upstream {self._options.url}: {self._health.breaker.reason}" if not closed else None
        return EngineStatus(
            state=(
                "stopped" if self._stopped else
                "failed" if self._health.over else
                "starting" if not self._started else
                "ready" if closed or local else
                "restarting"
            ),
            reason=self._health.over.message if self._health.over else reason,
            mode=self._mode,
            demotions=[],
            restarts=self._health.breaker.opened,
            texts_computed=self._texts_computed + self._fallback.texts,
            batches_computed=self._requests,
            tokens_computed=self._tokens_computed,
            texts_waiting=len(self._queue) + sum(len(request.texts) for request in self._in_flight),
            busy_since=min((request.since for request in self._in_flight), default=None),
            worker_pid=self._fallback.worker_pid,
        )  # fmt: skip

    @property
    def upstream(self) -> UpstreamStatus:
        """A snapshot for /v1/status, /metrics and `edgeembed doctor`."""
        breaker, fallback = self._health.breaker, self._fallback
        away = breaker.away_since
        return UpstreamStatus(
            url=self._options.url,
            model=self._remote.model,
            identity=self._identity.digest,
            breaker=breaker.state,
            reason=breaker.reason,
            away_seconds=None if away is None else round(time.monotonic() - away, 3),
            next_try_seconds=round(breaker.pause, 3),
            opened=breaker.opened,
            changes=self._remote.changes,
            wrong_rows=self._remote.faults,
            requests=self._requests,
            retries=self._retries,
            refusals=self._refusals,
            in_flight=len(self._in_flight),
            waiting=len(self._queue),
            texts=self._texts_computed,
            most_texts=self._queue.most_texts,
            fallback=fallback.state,
            fallback_reason=fallback.reason,
            fallback_cosine=fallback.cosine,
            fallback_texts=fallback.texts,
        )

    @property
    def is_over(self) -> bool:
        return self._stopped or self._health.over is not None

    async def start(self) -> None:
        await self._client.__aenter__()
        await self._health.start()
        self._started = True
        self._loading = asyncio.create_task(self._start_fallback(), name="upstream fallback")
        self._loading.add_done_callback(log_failure)

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        if outputs != DENSE:
            return [
                _failed(RequestError("this model is computed by another server, which returns dense vectors only"))
                for _ in texts
            ]
        # Upstream alone decides which texts share a forward pass, so `isolated` cannot be honoured.
        futures: list[asyncio.Future[Row]] = []
        taken: list[PendingText] = []
        for text in texts:
            try:
                waiting = pending_text(text, priority)
            except RequestError as error:
                futures.append(_failed(error))
                continue
            waiting.future.add_done_callback(self._on_cancelled)
            taken.append(waiting)
            futures.append(waiting.future)
        self._queue.put(taken)
        self._wake()
        return futures

    def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list[asyncio.Future[Tokenized]]:
        if self._fallback.ready:
            return self._fallback.tokenize(texts, want)
        reason = "upstream's tokenizer is unknown here; set up a local fallback (upstream_fallback) to count tokens"
        return [_failed(RequestError(reason)) for _ in texts]

    def distrust(self, reason: str) -> None:
        pass  # upstream's rows are checked with every request

    async def close(self) -> None:
        self._stopped = True
        stopping = EngineUnavailableError("the daemon is stopping")
        for text in [*self._queue.clear(), *(text for request in self._in_flight for text in request.texts)]:
            text.fail(stopping)
        if self._timer is not None:
            self._timer.cancel()
        tasks = [
            task for task in (self._loading, self._rechecks.task, *(request.task for request in self._in_flight)) if task
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._health.close()
        await self._fallback.close()
        await self._client.__aexit__(None, None, None)

    # --- which texts are sent, and when -------------------------------------------------------------------------------

    def _wake(self, after: float = 0.0) -> None:
        """Dispatch at the end of this pass of the event loop, or later: texts of several clients go out together."""
        loop = asyncio.get_running_loop()
        if after:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(after, self._wake)
        elif not self._woken:
            self._woken = True
            loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = False
        if self.is_over:
            self._fail_all(self._health.over or EngineUnavailableError("the daemon is stopping"))
            return
        if self._health.breaker.state != "closed" or self._health.breaker.pause:
            self._while_unavailable()
            return
        while len(self._in_flight) < self._options.most_requests:
            if self._queue.has(INTERACTIVE):
                self._start_request(INTERACTIVE)
            elif self._queue.has(BULK) and self._may_bulk():
                self._start_request(BULK)
            else:
                break

    def _may_bulk(self) -> bool:
        """Keep one request free for interactive texts, if there are several."""
        bulk = sum(request.priority == BULK for request in self._in_flight)
        return bulk < max(1, self._options.most_requests - 1)

    def _while_unavailable(self) -> None:
        """Handle waiting texts while nothing may be sent: the fallback answers them, or they wait on, or they fail."""
        breaker, left = self._health.breaker, self._health.retry_budget
        if breaker.state != "closed" and self._fallback.ready:
            self._fallback.answer(self._queue.clear())
            return
        if left <= 0:
            self._fail_all(self._unavailable())
        # An open breaker needs no timer: closing it wakes the dispatcher.
        moments = [left] * (left > 0) + [breaker.pause] * (breaker.state == "closed")
        if moments:
            self._wake(max(_SOON, min(moments)))

    def _start_request(self, priority: Priority) -> None:
        request = _UpstreamRequest(self._queue.take(priority), priority)
        self._in_flight.add(request)
        request.task = asyncio.create_task(self._run(request), name="upstream request")

    def _on_cancelled(self, future: asyncio.Future[Row]) -> None:
        """Cancel requests whose texts were all cancelled."""
        if not future.cancelled():
            return
        for request in self._in_flight:
            if request.task and all(text.future.done() for text in request.texts):
                request.task.cancel()

    # --- one request --------------------------------------------------------------------------------------------------

    async def _run(self, request: _UpstreamRequest) -> None:
        try:
            await self._send(request.texts)
        except Exception:  # a bug must not leave its waiters hanging
            log.exception("unexpected error in a request to upstream")
            for text in request.texts:
                text.fail(EngineError("internal error; see the daemon's log"))
        finally:
            self._in_flight.discard(request)
            if not self._stopped:
                self._wake()

    async def _send(self, texts: Sequence[PendingText]) -> bool:
        """Send texts and set their rows; return whether all got one. After a passing failure they go back in the queue."""
        texts = [text for text in texts if not text.future.done()]
        if not texts:
            return True
        self._requests += 1
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
                self._texts_computed += 1
                self._tokens_computed += tokens
                self._order.learn(text.sent, row)
                text.finish(Row(row, tokens))
        self._rechecks.begin(self._queue.most_texts)

    async def _on_refused(self, texts: Sequence[PendingText], error: RefusedError) -> bool:
        """Send the halves, down to the text that is refused; if both succeed, the request was only too large."""
        if len(texts) == 1:
            self._refusals += 1
            texts[0].fail(
                EngineError(f"upstream failed: {error.said}")
                if error.status == _SERVER_ERROR and not says_too_long(error.said)
                else RequestError(f"upstream refuses the text ({error.status}): {error.said}")
            )
            return False
        half = len(texts) // 2
        succeeded = [await self._send(part) for part in (texts[:half], texts[half:])]
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
            if self._health.retry_budget > 0 and text.tries < MOST_TRIES and not self.is_over:
                again.append(text)
            else:
                text.fail(self._health.over or self._unavailable())
        self._retries += len(again)
        self._queue.put_back(again)

    def _fail_all(self, error: EdgeEmbedError) -> None:
        for text in self._queue.clear():
            text.fail(error)

    def _unavailable(self) -> EngineUnavailableError:
        message = f"upstream {self._options.url} is unavailable: {self._health.breaker.reason}"
        if self._fallback.state != "off":
            message += f"; the local fallback does not answer: {self._fallback.reason or 'it is restarting'}"
        return EngineUnavailableError(message, retry_after=max(1.0, self._health.breaker.pause))

    async def _start_fallback(self) -> None:
        await self._fallback.start()
        self._wake()


def _failed(error: EdgeEmbedError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
