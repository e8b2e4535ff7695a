"""The daemon's side of a worker: start it, feed it, restart it, and walk down the ladder when a rung does not hold.

Texts stay in the supervisor's hands until their row has come back, so a worker that dies takes no request with it: its
successor gets them again. A text that was being computed when a worker crashed is tried again alone; the second crash on it
is its own fault, ends that text with an error, and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from edgeembed.engine.devices import Ladder, Rung
from edgeembed.engine.process import WORKER_COMMAND, WorkerProcess
from edgeembed.engine.protocol import (
    Cancel,
    Embed,
    EmbedItem,
    EngineStatus,
    Failed,
    FromWorker,
    LoadFailed,
    ModelInfo,
    Priority,
    Ready,
    Row,
    Rows,
    Stage,
    Started,
    Text,
    WorkerOptions,
)
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EmptyInputError,
    EngineError,
    EngineUnavailableError,
    InputTooLongError,
    WorkerCrashedError,
)
from edgeembed.logs import request_id

log = logging.getLogger(__name__)

CRASHES_PER_TEXT = 2
"""Native crashes with one text in the running batch after which the text is given up."""
KILLS_PER_TEXT = 5
"""The same for kills from outside, such as the kernel's when memory runs out."""
KILLS_WHILE_LOADING = 3
"""Kills from outside in a row, before a worker is ready, that count as a fall: a lower rung needs less memory."""
STABLE_SECONDS = 10.0
"""A worker that lived this long restarts at once; one that died sooner waits longer each time."""
LONGEST_PAUSE = 30.0

State = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass
class _Pending:
    """A text whose row has not come yet."""

    text: Text
    priority: Priority
    future: asyncio.Future[Row]
    crashes: int = 0
    kills: int = 0
    request: str | None = field(default_factory=request_id)
    """Id of the request that it came with."""


@dataclass(frozen=True)
class _Death:
    """How a worker's life ended."""

    reason: str
    while_loading: bool
    from_outside: bool
    """Killed by somebody else, not by its own kernels."""
    fatal: bool
    """No other rung can help."""
    suspects: tuple[int, ...]
    """Ids of the texts in the batch that was running."""
    lived: float
    """Seconds since it was ready."""
    never_ran: bool = False
    """There was no process."""


class WorkerEngine:
    """An `Engine` (see protocol) whose model runs in a child process."""

    def __init__(
        self,
        options: Callable[[Rung], WorkerOptions],
        ladder: Ladder,
        *,
        load_timeout: float = 300.0,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        """Prepare; nothing starts yet.

        options: what a worker on a given rung shall do; raises OSError when it cannot run just now, EngineUnavailableError
        when it never can.
        load_timeout: seconds a worker gets until it says ready.
        command: how a worker is started; rung and options are appended.
        """
        self._options = options
        self._ladder = ladder
        self._load_timeout = load_timeout
        self._command = tuple(command)
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._running: tuple[int, ...] = ()
        self._busy_since: float | None = None
        self._state: State = "starting"
        self._reason: str | None = "the model is loading"
        self._info: ModelInfo | None = None
        self._process: WorkerProcess | None = None
        self._accepts = False
        """Whether the process now running has said ready."""
        self._task: asyncio.Task[None] | None = None
        self._first_outcome: asyncio.Future[None] | None = None
        self._restarts = 0
        self._texts_computed = 0
        self._batches_computed = 0
        self._tokens_computed = 0

    # --- the engine's interface ---------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo | None:
        return self._info

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self._state,
            reason=self._reason,
            rung=self._ladder.rung.name,
            falls=self._ladder.falls,
            restarts=self._restarts,
            texts_computed=self._texts_computed,
            batches_computed=self._batches_computed,
            tokens_computed=self._tokens_computed,
            texts_waiting=len(self._pending),
            busy_since=self._busy_since,
            worker_pid=self._process.pid if self._process else None,
        )

    async def start(self) -> None:
        if self._task is None:
            self._first_outcome = asyncio.get_running_loop().create_future()
            self._first_outcome.add_done_callback(asyncio.Future.exception)  # told to callers, if there are any
            self._task = asyncio.create_task(self._supervise(), name="supervisor")
            self._task.add_done_callback(self._supervision_ended)
        assert self._first_outcome is not None
        await asyncio.shield(self._first_outcome)

    def submit(self, texts: Sequence[Text], priority: Priority) -> list[asyncio.Future[Row]]:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Row]] = [loop.create_future() for _ in texts]
        if self._state in ("failed", "stopped"):
            for future in futures:
                future.set_exception(self._unavailable())
            return futures
        items = []
        for text, future in zip(texts, futures, strict=True):
            id_ = next(self._ids)
            self._pending[id_] = _Pending(text, priority, future)
            future.add_done_callback(partial(self._left, id_))
            items.append(EmbedItem(id_, text, priority, False))
        if self._process and self._accepts:
            self._process.send(Embed(items))
        return futures

    async def close(self) -> None:
        self._set_state("stopped", "the daemon is stopping")
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_pending()

    # --- one life after another ---------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run workers until the engine is closed or nothing can help."""
        kills_while_loading = 0
        pause = 0.0
        while True:
            rung = self._ladder.rung
            death = await self._live(rung)
            reason = death.reason
            self._accepts = False
            self._busy_since = None
            log.warning("worker on rung %s ended: %s%s", rung.name, death.reason, self._whose(death.suspects))
            pause = 0.0 if death.lived >= STABLE_SECONDS else min(LONGEST_PAUSE, 2 * pause or 0.1)
            if death.fatal:
                self._give_up(death.reason)
                return
            if death.never_ran and self._info is not None:
                pass  # no rung is to blame; one that has worked is tried until it can start again
            elif death.while_loading:
                kills_while_loading = kills_while_loading + 1 if death.from_outside else 0
                # Somebody's kill says nothing about the rung; one after the other may be the system's memory guard.
                if not death.from_outside or kills_while_loading >= KILLS_WHILE_LOADING:
                    self._ladder.fall(death.reason, passing=death.from_outside)
                    kills_while_loading = 0
                    if self._ladder.exhausted:
                        if self._info is None:
                            self._give_up(_all_failed(self._ladder))
                            return
                        # It has worked on this machine before: begin again from the top, later.
                        reason = _all_failed(self._ladder)
                        self._ladder.reset()
                        pause = LONGEST_PAUSE
            else:
                kills_while_loading = 0
                self._blame(death)
            if self._info is not None:
                self._restarts += 1
                self._set_state("restarting", reason)
            if self._ladder.rung is not rung:
                log.warning("going on with rung %s (%s)", self._ladder.rung.name, self._ladder.rung.description)
            if pause:
                log.info("next start of the worker in %.1f s", pause)
                await asyncio.sleep(pause)

    def _whose(self, ids: Sequence[int]) -> str:
        """Name the requests whose texts were computing."""
        found = {pending.request for id_ in ids if (pending := self._pending.get(id_)) and pending.request}
        return f" [{', '.join(sorted(found))}]" if found else ""

    def _blame(self, death: _Death) -> None:
        """Count a death in the middle of work against the texts that were computing; fall a rung when it was a crash."""
        condemned = False
        for id_ in death.suspects:
            pending = self._pending.get(id_)
            if pending is None:
                continue
            if death.from_outside:
                pending.kills += 1
            else:
                pending.crashes += 1
            if pending.crashes >= CRASHES_PER_TEXT or pending.kills >= KILLS_PER_TEXT:
                condemned = True
                self._finish(
                    id_,
                    WorkerCrashedError(
                        f"this text ended the worker {pending.crashes + pending.kills} times ({death.reason}); "
                        "it is not tried again"
                    ),
                )
        if condemned:
            self._ladder.forgive()
        elif not death.from_outside:
            self._ladder.fall(death.reason, passing=True)
            if self._ladder.exhausted:
                self._ladder.forgive()

    async def _live(self, rung: Rung) -> _Death:
        """Start a worker, serve until it ends, and say how it ended."""
        self._running = ()
        try:
            process = await WorkerProcess.start(self._command, self._options(rung))
        except EngineUnavailableError as error:
            return _Death(error.message, while_loading=True, from_outside=False, fatal=True, suspects=(), lived=0.0)
        except OSError as error:  # no memory, no process or no file to be had, just now
            reason = f"a worker cannot be started: {error}"
            return _Death(reason, while_loading=True, from_outside=True, fatal=False, suspects=(), lived=0.0, never_ran=True)
        self._process = process
        ready_at: float | None = None
        doing = "starting"
        problem: LoadFailed | None = None
        try:
            while True:
                timeout = None if ready_at is not None else self._load_timeout
                message = await asyncio.wait_for(process.receive(), timeout)
                match message:
                    case None:
                        break
                    case Stage(stage):
                        doing = stage
                    case Ready(info):
                        ready_at = time.monotonic()
                        self._became_ready(rung, info)
                    case LoadFailed():
                        problem = message
                    case _:
                        self._handle(message)
        except TimeoutError:
            problem = LoadFailed(f"no answer for {self._load_timeout:g} s while {doing}", fatal=False)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            problem = LoadFailed(f"the worker's answers are not readable: {error}", fatal=False)
        finally:
            self._accepts = False
            await process.end(politely=self._state == "stopped" and ready_at is not None)  # a load finishes nothing
            self._process = None
        while_loading = ready_at is None
        activity = doing if while_loading else ("computing" if self._running else "idle")
        return _Death(
            reason=problem.reason if problem else process.obituary(activity),
            while_loading=while_loading,
            from_outside=problem is None and process.killed_from_outside,
            fatal=problem is not None and problem.fatal,
            suspects=self._running,
            lived=0.0 if ready_at is None else time.monotonic() - ready_at,
        )

    # --- messages -----------------------------------------------------------------------------------------------------

    def _became_ready(self, rung: Rung, info: ModelInfo) -> None:
        self._info = info
        self._ladder.remember()
        self._set_state("ready", None)
        log.info("worker ready on rung %s: %s %s", rung.name, info.name, info.file_type)
        log.debug("%s", info.llama_cpp)
        self._accepts = True
        again = [
            EmbedItem(id_, pending.text, pending.priority, bool(pending.crashes or pending.kills))
            for id_, pending in self._pending.items()
        ]
        if again and self._process:
            self._process.send(Embed(again))
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_result(None)

    def _handle(self, message: FromWorker) -> None:
        match message:
            case Started(ids):
                self._running = tuple(ids)
                self._busy_since = time.time()
            case Rows(items):
                self._running = ()
                self._busy_since = None
                self._batches_computed += 1
                self._texts_computed += len(items)
                self._tokens_computed += sum(item.tokens for item in items)
                for item in items:
                    self._finish(item.id, Row(np.frombuffer(item.vector, dtype=np.float32), item.tokens))
            case Failed():
                self._finish(message.id, _error_of(message))
            case _:
                raise ValueError(f"unexpected message {message!r}")

    def _finish(self, id_: int, outcome: Row | EdgeEmbedError) -> None:
        pending = self._pending.pop(id_, None)
        if pending is None or pending.future.done():
            return  # cancelled meanwhile
        if isinstance(outcome, Row):
            pending.future.set_result(outcome)
        else:
            pending.future.set_exception(outcome)

    def _left(self, id_: int, future: asyncio.Future[Row]) -> None:
        """Free the place of a text whose future was cancelled."""
        if future.cancelled() and self._pending.pop(id_, None) is not None and self._process and self._accepts:
            self._process.send(Cancel([id_]))

    # --- states -------------------------------------------------------------------------------------------------------

    def _set_state(self, state: State, reason: str | None) -> None:
        if self._state != "stopped":
            self._state, self._reason = state, reason

    def _give_up(self, reason: str) -> None:
        self._set_state("failed", reason)
        log.error("the model cannot be served: %s", reason)
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_exception(self._unavailable())
        self._fail_pending()

    def _fail_pending(self) -> None:
        for id_ in list(self._pending):
            self._finish(id_, self._unavailable())

    def _unavailable(self) -> EngineUnavailableError:
        return EngineUnavailableError(self._reason or f"the engine is {self._state}")

    def _supervision_ended(self, task: asyncio.Task[None]) -> None:
        """Turn a bug in the supervisor into a state that everybody sees."""
        if not task.cancelled() and (error := task.exception()):
            log.error("the supervisor itself failed", exc_info=error)
            self._give_up(f"internal error: {error!r}")
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_exception(self._unavailable())


def _error_of(message: Failed) -> EdgeEmbedError:
    match message.kind:
        case "too_long":
            return InputTooLongError(message.message, tokens=message.tokens, limit=message.limit)
        case "empty":
            return EmptyInputError(message.message)
        case "bad_vector":
            return BadVectorError(message.message)
        case "engine":
            return EngineError(message.message)


def _all_failed(ladder: Ladder) -> str:
    return "; ".join(f"{fall.rung}: {fall.reason}" for fall in ladder.falls)
