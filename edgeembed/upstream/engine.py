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
from edgeembed.errors import (
    EdgeEmbedError,
    EngineError,
    EngineUnavailableError,
    RequestError,
)
from edgeembed.upstream.client import UpstreamClient
from edgeembed.upstream.fallback import Fallback
from edgeembed.upstream.health import HealthMonitor, log_failure
from edgeembed.upstream.order import texts_beside_sentinels
from edgeembed.upstream.queue import PendingText, TextQueue, pending_text
from edgeembed.upstream.remote import REMOTE_TYPE, Remote
from edgeembed.upstream.sending import Sending

log = logging.getLogger(__name__)

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
        self._client = UpstreamClient(remote.options)
        self._health = HealthMonitor(remote, self._client, self._wake)
        self._fallback = Fallback(make_fallback, self._identity, self._options.min_cosine)
        most_texts = 1 if remote.faults else texts_beside_sentinels(self._options.most_texts)
        self._queue = TextQueue(most_texts, self._options.most_characters)
        self._sending = Sending(remote, self._client, self._health, self._queue, self._fallback)
        self._in_flight: set[_UpstreamRequest] = set()
        self._loading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._started = False
        self._stopped = False

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
            texts_computed=self._sending.texts_computed + self._fallback.texts,
            batches_computed=self._sending.requests,
            tokens_computed=self._sending.tokens_computed,
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
            requests=self._sending.requests,
            retries=self._sending.retries,
            refusals=self._sending.refusals,
            in_flight=len(self._in_flight),
            waiting=len(self._queue),
            texts=self._sending.texts_computed,
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
        own = (self._loading, self._sending.rechecks.task, *(request.task for request in self._in_flight))
        tasks = [task for task in own if task]
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
            self._fail_all(self._sending.unavailable())
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
            await self._sending.send(request.texts)
        except Exception:  # a bug must not leave its waiters hanging
            log.exception("unexpected error in a request to upstream")
            for text in request.texts:
                text.fail(EngineError("internal error; see the daemon's log"))
        finally:
            self._in_flight.discard(request)
            if not self._stopped:
                self._wake()

    def _fail_all(self, error: EdgeEmbedError) -> None:
        for text in self._queue.clear():
            text.fail(error)

    async def _start_fallback(self) -> None:
        await self._fallback.start()
        self._wake()


def _failed(error: EdgeEmbedError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
