"""An `Engine` (see protocol) that asks another server: OpenAI's protocol out, rows in.

Every request carries a canary text besides the texts that are asked for, and its rows are taken only if the canary's row is
the one that is known: a server that was replaced, reloaded or put behind a load balancer cannot slip other vectors in.
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
from edgeembed.engine.interface import BULK, INTERACTIVE, Engine, ModelInfo, Priority, Prompted, Row, Text, Tokenized
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    InputTooLongError,
    RequestError,
)
from edgeembed.upstream.client import BusyError, RefusedError, UnavailableError, UpstreamClient
from edgeembed.upstream.fallback import Fallback
from edgeembed.upstream.identity import SENTINEL_TEXT, least_cosine
from edgeembed.upstream.queue import PendingText, TextQueue, pending_text
from edgeembed.upstream.remote import REMOTE_TYPE, Remote
from edgeembed.upstream.watch import HealthMonitor, log_failure
from edgeembed.upstream.wire import UpstreamAnswer, says_too_long, spread

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""Requests with a text over which upstream went away, or gave vectors of another model, before the text is given up."""
_SERVER_ERROR = 500
_SOON = 0.001


@dataclass(eq=False)
class _Flight:
    """A request on its way."""

    texts: Sequence[PendingText]
    priority: Priority
    since: float = field(default_factory=time.time)
    """Unix seconds."""
    task: asyncio.Task[None] | None = None


class RemoteEngine:
    """One identity of an upstream model. When upstream turns out to have another one, this engine is over."""

    def __init__(self, remote: Remote, make_fallback: Callable[[], Engine] | None = None) -> None:
        """Prepare; nothing is asked yet. make_fallback: makes the local engine for when upstream is away, in a thread."""
        self._remote = remote
        self._options = remote.options
        self._identity = remote.identity
        self._rider_row = self._identity.canary_rows[:1]
        self._client = UpstreamClient(remote.options)
        self._watch = HealthMonitor(remote, self._client, self._wake)
        self._fallback = Fallback(make_fallback, self._identity, self._options.min_cosine)
        self._queue = TextQueue(max(1, self._options.most_texts - 1), self._options.most_characters)
        self._flights: set[_Flight] = set()
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
        )

    @property
    def status(self) -> EngineStatus:
        closed, local = self._watch.breaker.state == "closed", self._fallback.ready
        reason = f"upstream {self._options.url}: {self._watch.breaker.reason}" if not closed else None
        return EngineStatus(
            state=(
                "stopped" if self._stopped else
                "failed" if self._watch.over else
                "starting" if not self._started else
                "ready" if closed or local else
                "restarting"
            ),
            reason=self._watch.over.message if self._watch.over else reason,
            mode="upstream" if closed or not local else "local fall-back",
            demotions=[],
            restarts=self._watch.breaker.opened,
            texts_computed=self._texts_computed + self._fallback.texts,
            batches_computed=self._requests,
            tokens_computed=self._tokens_computed,
            texts_waiting=len(self._queue) + sum(len(flight.texts) for flight in self._flights),
            busy_since=min((flight.since for flight in self._flights), default=None),
            worker_pid=self._fallback.worker_pid,
        )  # fmt: skip

    @property
    def upstream(self) -> UpstreamStatus:
        """What there is to tell of the other side."""
        breaker, fallback = self._watch.breaker, self._fallback
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
            requests=self._requests,
            retries=self._retries,
            refusals=self._refusals,
            in_flight=len(self._flights),
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
        return self._stopped or self._watch.over is not None

    async def start(self) -> None:
        await self._client.__aenter__()
        await self._watch.start()
        self._started = True
        self._loading = asyncio.create_task(self._start_fallback(), name="upstream fall-back")
        self._loading.add_done_callback(log_failure)

    def submit(self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False) -> list[asyncio.Future[Row]]:
        # What shares a forward pass upstream is upstream's choice: `isolated` cannot be promised there.
        futures: list[asyncio.Future[Row]] = []
        taken: list[PendingText] = []
        for text in texts:
            try:
                waiting = pending_text(text, priority)
            except RequestError as error:
                futures.append(_failed(error))
                continue
            waiting.future.add_done_callback(self._left)
            taken.append(waiting)
            futures.append(waiting.future)
        self._queue.put(taken)
        self._wake()
        return futures

    def tokenize(self, texts: Sequence[Text], *, written: bool) -> list[asyncio.Future[Tokenized]]:
        if self._fallback.ready:
            return self._fallback.tokenize(texts, written=written)
        reason = "upstream's tokenizer is not known here; a local fall-back (upstream_fallback) would count its tokens"
        return [_failed(RequestError(reason)) for _ in texts]

    async def close(self) -> None:
        self._stopped = True
        stopping = EngineUnavailableError("the daemon is stopping")
        for text in [*self._queue.clear(), *(text for flight in self._flights for text in flight.texts)]:
            text.fail(stopping)
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (self._loading, *(flight.task for flight in self._flights)) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._watch.close()
        await self._fallback.close()
        await self._client.__aexit__(None, None, None)

    # --- who is sent, and when ----------------------------------------------------------------------------------------

    def _wake(self, after: float = 0.0) -> None:
        """Look what can be sent, soon: what several requests want in this moment goes together."""
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
            self._fail_all(self._watch.over or EngineUnavailableError("the daemon is stopping"))
            return
        if self._watch.breaker.state != "closed" or self._watch.breaker.pause:
            self._hold()
            return
        while len(self._flights) < self._options.most_requests:
            if self._queue.has(INTERACTIVE):
                self._send_off(INTERACTIVE)
            elif self._queue.has(BULK) and self._may_bulk():
                self._send_off(BULK)
            else:
                break

    def _may_bulk(self) -> bool:
        """Keep one place for queries, if there are several."""
        flying = sum(flight.priority == BULK for flight in self._flights)
        return flying < max(1, self._options.most_requests - 1)

    def _hold(self) -> None:
        """Treat those who wait while nothing may be sent: the fall-back answers, or they wait, or are refused."""
        breaker, left = self._watch.breaker, self._watch.retry_budget
        if breaker.state != "closed" and self._fallback.ready:
            self._fallback.answer(self._queue.clear())
            return
        if left <= 0:
            self._fail_all(self._unavailable())
        # An open breaker needs no timer: whoever closes it looks here again.
        moments = [left] * (left > 0) + [breaker.pause] * (breaker.state == "closed")
        if moments:
            self._wake(max(_SOON, min(moments)))

    def _send_off(self, priority: Priority) -> None:
        flight = _Flight(self._queue.take(priority), priority)
        self._flights.add(flight)
        flight.task = asyncio.create_task(self._fly(flight), name="upstream request")

    def _left(self, future: asyncio.Future[Row]) -> None:
        """End the requests for whose texts nobody waits any more."""
        if not future.cancelled():
            return
        for flight in self._flights:
            if flight.task and all(text.future.done() for text in flight.texts):
                flight.task.cancel()

    # --- one request --------------------------------------------------------------------------------------------------

    async def _fly(self, flight: _Flight) -> None:
        try:
            await self._send(flight.texts)
        except Exception as error:  # its waiters must hear of a bug too
            log.exception("a request to upstream failed for a reason that nobody foresaw")
            for text in flight.texts:
                text.fail(EngineError(f"internal error: {error!r}"))
        finally:
            self._flights.discard(flight)
            if not self._stopped:
                self._wake()

    async def _send(self, texts: Sequence[PendingText]) -> bool:
        """Send texts and hand out their rows; says whether all have one. What fails passingly goes back in the queue."""
        texts = [text for text in texts if not text.future.done()]
        if not texts:
            return True
        self._requests += 1
        try:
            asked = [SENTINEL_TEXT, *(text.sent for text in texts)]
            answer = await self._client.embed(self._remote.model, asked, self._identity.encoding)
        except RefusedError as error:
            return await self._refused(texts, error)
        except BusyError as error:
            self._watch.failed(error)
            self._retry(texts)
            return False
        except UnavailableError as error:
            self._away(texts, error)
            return False
        if least_cosine(answer.rows[:1], self._rider_row) < self._options.min_cosine:
            self._other_vectors(texts)
            return False
        self._watch.breaker.worked()
        self._land(texts, answer)
        return True

    def _land(self, texts: Sequence[PendingText], answer: UpstreamAnswer) -> None:
        rows = answer.rows[1:]
        sent = [text.sent for text in texts]
        total = None if answer.tokens is None else max(len(texts), answer.tokens - self._identity.rider_tokens)
        for text, row, tokens in zip(texts, rows, spread(total, sent), strict=True):
            if reason := defect(row):
                text.fail(BadVectorError(f"upstream's row is {reason}"))
            elif text.most_tokens and tokens > text.most_tokens:
                text.fail(_too_long(text, tokens))
            else:
                self._texts_computed += 1
                self._tokens_computed += tokens
                text.finish(Row(row, tokens))

    async def _refused(self, texts: Sequence[PendingText], error: RefusedError) -> bool:
        """Find the text that is to blame by halves; a request that is merely too large shows itself so."""
        if len(texts) == 1:
            self._refusals += 1
            texts[0].fail(
                EngineError(f"upstream failed: {error}")
                if error.status == _SERVER_ERROR and not says_too_long(str(error))
                else RequestError(f"upstream refuses it ({error.status}): {error}")
            )
            return False
        half = len(texts) // 2
        fine = [await self._send(part) for part in (texts[:half], texts[half:])]
        if all(fine) and error.status != _SERVER_ERROR and half < self._queue.most_texts:
            self._queue.most_texts = half
            log.info("upstream takes no requests of %d texts (%s); %d at a time go from now on", len(texts), error, half)
        return all(fine)

    def _away(self, texts: Sequence[PendingText], error: UnavailableError) -> None:
        self._watch.failed(error)
        for text in texts:
            text.tries += error.broke_off
        if self._fallback.ready and (error.hangs or self._watch.breaker.state != "closed"):
            self._fallback.answer([text for text in texts if not text.future.done()])
        elif error.hangs:
            for text in texts:
                text.fail(EngineTimeoutError(f"upstream gives {error}"))
        else:
            self._retry(texts)

    def _other_vectors(self, texts: Sequence[PendingText]) -> None:
        """Take none of the rows that came with a canary row of another model, and look closer before anything else."""
        self._watch.failed(UnavailableError("its vectors are not those of before"), at_once=True)
        for text in texts:
            text.tries += 1
        self._retry(texts)

    def _retry(self, texts: Sequence[PendingText]) -> None:
        """Let texts wait once more, but for those that have waited or tried enough."""
        again: list[PendingText] = []
        for text in texts:
            if self._watch.retry_budget > 0 and text.tries < MOST_TRIES and not self.is_over:
                again.append(text)
            else:
                text.fail(self._watch.over or self._unavailable())
        self._retries += len(again)
        self._queue.put_back(again)

    def _fail_all(self, error: EdgeEmbedError) -> None:
        for text in self._queue.clear():
            text.fail(error)

    def _unavailable(self) -> EngineUnavailableError:
        words = f"upstream {self._options.url} is away: {self._watch.breaker.reason}"
        if self._fallback.state != "off":
            words += f"; the local fall-back does not answer: {self._fallback.reason or 'it is restarting'}"
        return EngineUnavailableError(words, retry_after=max(1.0, self._watch.breaker.pause))

    async def _start_fallback(self) -> None:
        await self._fallback.start()
        self._wake()


def _failed(error: EdgeEmbedError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _too_long(text: PendingText, tokens: int) -> RequestError:
    if isinstance(text.text, Prompted) and text.text.limits is not None and text.text.limits.cut != "none":
        return RequestError(
            f"it has {tokens} tokens, {text.most_tokens} are allowed, and upstream cannot be told where to cut; shorten it"
        )
    return InputTooLongError("", tokens=tokens, limit=text.most_tokens)
