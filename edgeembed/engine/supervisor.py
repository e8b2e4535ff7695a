"""The daemon's side of a worker: start it, feed it, restart it, and walk down the ladder when a rung does not hold.

Texts stay in the supervisor's hands until their row has come back, so a worker that dies takes no request with it: its
successor gets them again. A text that was being computed when a worker crashed is tried again alone; the second crash on it
is its own fault, ends that text with an error, and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgeembed.engine.devices import Ladder, Rung
from edgeembed.engine.ledger import Ledger
from edgeembed.engine.pending import PendingTexts
from edgeembed.engine.process import WORKER_COMMAND, WorkerProcess
from edgeembed.engine.protocol import (
    BULK,
    Cancel,
    Embed,
    EngineStatus,
    Failed,
    FromWorker,
    LoadFailed,
    ModelInfo,
    Priority,
    Read,
    Ready,
    Row,
    Rows,
    Stage,
    Text,
    Tokenized,
    Want,
    WorkerOptions,
)
from edgeembed.errors import EngineUnavailableError

log = logging.getLogger(__name__)

KILLS_WHILE_LOADING = 3
"""Kills from outside in a row, before a worker is ready, that count as a fall: a lower rung needs less memory."""
STABLE_SECONDS = 10.0
"""A worker that lived this long restarts at once; one that died sooner waits longer each time."""
LONGEST_PAUSE = 30.0

State = Literal["starting", "ready", "restarting", "failed", "stopped"]


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
    """Ids of the texts that were being read or computed."""
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
        on_ready: Callable[[ModelInfo], None] = lambda _info: None,
    ) -> None:
        """Prepare; nothing starts yet.

        options: what a worker on a given rung shall do; raises OSError when it cannot run just now, EngineUnavailableError
        when it never can.
        load_timeout: seconds a worker gets until it says ready.
        command: how a worker is started; rung and options are appended.
        on_ready: told what each worker says of the model that it has loaded.
        """
        self._on_ready = on_ready
        self._options = options
        self._ladder = ladder
        self._load_timeout = load_timeout
        self._command = tuple(command)
        self._pending = PendingTexts(self._left)
        self._ledger: Ledger | None = None
        """What the worker computes."""
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
            busy_since=self._ledger.busy_since if self._ledger else None,
            worker_pid=self._process.pid if self._process else None,
        )

    @property
    def is_over(self) -> bool:
        return self._state in ("failed", "stopped")

    async def start(self) -> None:
        if self._task is None:
            self._first_outcome = asyncio.get_running_loop().create_future()
            self._first_outcome.add_done_callback(asyncio.Future.exception)  # told to callers, if there are any
            self._task = asyncio.create_task(self._supervise(), name="supervisor")
            self._task.add_done_callback(self._supervision_ended)
        assert self._first_outcome is not None
        await asyncio.shield(self._first_outcome)

    def submit(self, texts: Sequence[Text], priority: Priority) -> list[asyncio.Future[Row]]:
        return self._submit(texts, priority, "row")

    def tokenize(self, texts: Sequence[Text], *, written: bool) -> list[asyncio.Future[Tokenized]]:
        # As bulk: the thread that reads what comes through the pipe is for those who wait for a vector.
        return self._submit(texts, BULK, "tokens" if written else "ids")

    def _submit(self, texts: Sequence[Text], priority: Priority, want: Want) -> list[asyncio.Future[Any]]:
        items, futures = self._pending.add(texts, priority, want)
        if self._state in ("failed", "stopped"):
            self._pending.fail_all(self._unavailable)
        elif self._process and self._accepts:
            self._process.send(Embed(items))
        return futures

    async def close(self) -> None:
        self._set_state("stopped", "the daemon is stopping")
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._pending.fail_all(self._unavailable)

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
        found = self._pending.requests_of(ids)
        return f" [{', '.join(found)}]" if found else ""

    def _blame(self, death: _Death) -> None:
        """Count a death in the middle of work against the texts that were computing; fall a rung when it was a crash."""
        condemned = self._pending.blame(death.suspects, death.reason, from_outside=death.from_outside)
        if condemned:
            self._ladder.forgive()
        elif not death.from_outside:
            self._ladder.fall(death.reason, passing=True)
            if self._ladder.exhausted:
                self._ladder.forgive()

    async def _live(self, rung: Rung) -> _Death:
        """Start a worker, serve until it ends, and say how it ended."""
        ledger: Ledger | None = None
        try:
            options = self._options(rung)
            ledger = Ledger.create()
            process = await WorkerProcess.start(self._command, msgspec.structs.replace(options, ledger=str(ledger.path)))
        except EngineUnavailableError as error:
            return _Death(error.message, while_loading=True, from_outside=False, fatal=True, suspects=(), lived=0.0)
        except OSError as error:  # no memory, no process or no file to be had, just now
            if ledger is not None:
                ledger.close(remove=True)
            reason = f"a worker cannot be started: {error}"
            return _Death(reason, while_loading=True, from_outside=True, fatal=False, suspects=(), lived=0.0, never_ran=True)
        self._process, self._ledger = process, ledger
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
            running = ledger.running
            self._process = self._ledger = None
            ledger.close(remove=True)
        while_loading = ready_at is None
        activity = doing if while_loading else ("computing" if running else "idle")
        return _Death(
            reason=problem.reason if problem else process.obituary(activity),
            while_loading=while_loading,
            from_outside=problem is None and process.killed_from_outside,
            fatal=problem is not None and problem.fatal,
            suspects=running,
            lived=0.0 if ready_at is None else time.monotonic() - ready_at,
        )

    # --- messages -----------------------------------------------------------------------------------------------------

    def _became_ready(self, rung: Rung, info: ModelInfo) -> None:
        self._info = info
        self._ladder.remember()
        self._on_ready(info)
        self._set_state("ready", None)
        log.info("worker ready on rung %s: %s %s", rung.name, info.name, info.file_type)
        log.debug("%s", info.llama_cpp)
        self._accepts = True
        again = self._pending.items()
        if again and self._process:
            self._process.send(Embed(again))
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_result(None)

    def _handle(self, message: FromWorker) -> None:
        match message:
            case Rows(items):
                self._batches_computed += 1
                self._texts_computed += len(items)
                self._tokens_computed += sum(item.tokens for item in items)
                self._pending.finish_rows(items)
            case Read():
                self._pending.finish_read(message)
            case Failed():
                self._pending.finish_failed(message)
            case _:
                raise ValueError(f"unexpected message {message!r}")

    def _left(self, id_: int) -> None:
        """Tell the worker that nobody waits for a text any more."""
        if self._process and self._accepts:
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
        self._pending.fail_all(self._unavailable)

    def _unavailable(self) -> EngineUnavailableError:
        return EngineUnavailableError(self._reason or f"the engine is {self._state}")

    def _supervision_ended(self, task: asyncio.Task[None]) -> None:
        """Turn a bug in the supervisor into a state that everybody sees."""
        if not task.cancelled() and (error := task.exception()):
            log.error("the supervisor itself failed", exc_info=error)
            self._give_up(f"internal error: {error!r}")
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_exception(self._unavailable())


def _all_failed(ladder: Ladder) -> str:
    return "; ".join(f"{fall.rung}: {fall.reason}" for fall in ladder.falls)
