"""The daemon's side of a worker: start it, feed it, restart it, and walk down the ladder when a mode does not hold.

Texts stay in the supervisor's hands until their row has come back, so a worker that dies takes no request with it: its
successor gets them again. A text that was being computed when a worker crashed is tried again alone; the second crash on it
is its own fault, ends that text with an error, and costs nobody else anything.

When the cool-down of a higher mode is over, a second worker tries it beside the one that serves, and takes over between two
requests once its canary texts have come out right.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from edgeembed.common.status import EngineStatus
from edgeembed.engine.execution_modes import ExecutionMode, ModeUnavailableError
from edgeembed.engine.interface import BULK, ModelInfo, Priority, Row, Text, Tokenized
from edgeembed.engine.ipc.messages import Cancel, Embed, Failed, FromWorker, LoadFailed, Read, Rows, Want
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.pending import PendingTexts
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed.engine.supervisor.session import OptionsOf, WorkerExit, WorkerSession, unreadable
from edgeembed.engine.supervisor.watchdog import GRACE_SECONDS, LOOK_SECONDS, Watchdog
from edgeembed.errors import EngineUnavailableError

log = logging.getLogger(__name__)

KILLS_WHILE_LOADING = 3
"""Kills from outside in a row, before a worker is ready, that count as a fall: a lower mode needs less memory."""
STABLE_SECONDS = 10.0
"""A worker that lived this long restarts at once; one that died sooner waits longer each time."""
LONGEST_PAUSE = 30.0
LONGEST_WAIT_FOR_QUIET = 30.0
"""A way up is for a moment without requests; where none comes for so long it does not wait for one."""
QUIET_STEP = 0.05

State = Literal["starting", "ready", "restarting", "failed", "stopped"]


class WorkerEngine:
    """An `Engine` (see protocol) whose model runs in a child process."""

    def __init__(
        self,
        options: OptionsOf,
        policy: FallbackPolicy,
        *,
        load_timeout: float = 300.0,
        command: Sequence[str] = WORKER_COMMAND,
        on_ready: Callable[[ModelInfo], None] = lambda _info: None,
        obstacle: Callable[[ExecutionMode], str | None] = lambda _rung: None,
        hang_seconds: float = GRACE_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Prepare; nothing starts yet.

        options: what a worker on a given mode shall do.
        load_timeout: seconds a worker gets until it says ready.
        command: how a worker is started; mode and options are appended.
        on_ready: told what each worker says of the model that it has loaded.
        obstacle: says, in a thread and while another worker runs, why a mode cannot be gone up to; None when it may.
        hang_seconds: what a worker may be silent about any work; more work may take longer.
        look_seconds: between two looks at whether it hangs, and whether a higher mode is due.
        """
        self._obstacle = obstacle
        self._hang_seconds = hang_seconds
        self._look_seconds = look_seconds
        self._on_ready = on_ready
        self._options = options
        self._policy = policy
        self._load_timeout = load_timeout
        self._command = tuple(command)
        self._pending = PendingTexts(self._left)
        self._state: State = "starting"
        self._reason: str | None = "the model is loading"
        self._info: ModelInfo | None = None
        self._life: WorkerSession | None = None
        """The worker now running."""
        self._rising: ExecutionMode | None = None
        """The mode that is gone up to when the worker now running has ended."""
        self._successor: WorkerSession | None = None
        """A worker that is ready on that mode."""
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
            mode=self._policy.mode.name,
            demotions=self._policy.demotions,
            restarts=self._restarts,
            texts_computed=self._texts_computed,
            batches_computed=self._batches_computed,
            tokens_computed=self._tokens_computed,
            texts_waiting=len(self._pending),
            busy_since=self._life.activity_table.busy_since if self._life else None,
            worker_pid=self._life.process.pid if self._life else None,
            mode_changes=self._policy.mode_changes,
            mode_changes_by_cause=self._policy.mode_changes_by_cause,
            offload=self._life.offload if self._life else None,
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

    def submit(self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False) -> list[asyncio.Future[Row]]:
        return self._submit(texts, BULK if isolated else priority, "row", isolated=isolated)

    def tokenize(self, texts: Sequence[Text], *, written: bool) -> list[asyncio.Future[Tokenized]]:
        # As bulk: the thread that reads what comes through the pipe is for those who wait for a vector.
        return self._submit(texts, BULK, "tokens" if written else "ids")

    def _submit(
        self, texts: Sequence[Text], priority: Priority, want: Want, *, isolated: bool = False
    ) -> list[asyncio.Future[Any]]:
        items, futures = self._pending.add(texts, priority, want, isolated=isolated)
        if self._state in ("failed", "stopped"):
            self._pending.fail_all(self._unavailable)
        elif self._life and self._accepts:
            self._life.process.send(Embed(items))
        return futures

    async def close(self) -> None:
        self._set_state("stopped", "the daemon is stopping")
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._successor:
            await self._successor.end(politely=False)
            self._successor = None
        self._pending.fail_all(self._unavailable)

    # --- one life after another ---------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run workers until the engine is closed or nothing can help."""
        kills_while_loading = 0
        pause = 0.0
        while True:
            mode = self._policy.mode
            death = await self._live(mode)
            reason = death.reason
            self._accepts = False
            if self._rising is not None:
                self._policy.promote(self._rising)
                log.info("going up to mode %s (%s)", self._rising.name, self._rising.description)
                if self._successor is None:
                    self._set_state("restarting", f"the model loads anew, on mode {self._rising.name}")
                self._rising = None
                continue
            log.warning("worker on mode %s ended: %s%s", mode.name, death.reason, self._whose(death.suspects))
            pause = 0.0 if death.lived >= STABLE_SECONDS else min(LONGEST_PAUSE, 2 * pause or 0.1)
            if death.fatal:
                self._give_up(death.reason)
                return
            if death.never_ran and self._info is not None:
                pass  # no mode is to blame; one that has worked is tried until it can start again
            elif death.while_loading:
                kills_while_loading = kills_while_loading + 1 if death.from_outside else 0
                # Somebody's kill says nothing about the mode; one after the other may be the system's memory guard.
                if not death.from_outside or kills_while_loading >= KILLS_WHILE_LOADING:
                    self._policy.demote(death.reason, temporary=death.from_outside)
                    kills_while_loading = 0
                    if self._policy.exhausted:
                        if self._info is None:
                            self._give_up(self._policy.summary)
                            return
                        # It has worked on this machine before: begin again from the top, later.
                        reason = self._policy.summary
                        self._policy.reset()
                        pause = LONGEST_PAUSE
            else:
                kills_while_loading = 0
                self._blame(death)
            if self._info is not None:
                self._restarts += 1
                self._set_state("restarting", reason)
            if self._policy.mode is not mode:
                log.warning("going on with mode %s (%s)", self._policy.mode.name, self._policy.mode.description)
            if pause:
                log.info("next start of the worker in %.1f s", pause)
                await asyncio.sleep(pause)

    def _whose(self, ids: Sequence[int]) -> str:
        """Name the requests whose texts were computing."""
        found = self._pending.requests_of(ids)
        return f" [{', '.join(found)}]" if found else ""

    def _blame(self, death: WorkerExit) -> None:
        """Count a death in the middle of work against the texts that were computing; fall a mode when it was a crash."""
        condemned = self._pending.blame(death.suspects, death.reason, from_outside=death.from_outside)
        if condemned:
            self._policy.forgive()
        elif not death.from_outside:
            self._policy.demote(death.reason, temporary=True)
            if self._policy.exhausted:
                self._policy.forgive()

    async def _live(self, mode: ExecutionMode) -> WorkerExit:
        """Start a worker, or take over one that is ready; serve until it ends, and say how it ended."""
        life, self._successor = self._successor, None
        try:
            life = life or await WorkerSession.begin(mode, self._options, self._command)
        except EngineUnavailableError as error:
            return WorkerExit(error.message, while_loading=True, from_outside=False, fatal=True)
        except ModeUnavailableError as error:
            return WorkerExit(str(error), while_loading=True, from_outside=False, fatal=False)
        except OSError as error:  # no memory, no process or no file to be had, just now
            reason = f"a worker cannot be started: {error}"
            return WorkerExit(reason, while_loading=True, from_outside=True, fatal=False, never_ran=True)
        self._life = life
        ready_at: float | None = None
        problem: LoadFailed | None = None
        upkeep: list[asyncio.Task[None]] = []
        try:
            problem = await life.load(self._load_timeout) if life.info is None else None
            if life.info is not None:
                ready_at = time.monotonic()
                self._became_ready(mode, life.info)
                upkeep = self._look_after(life, life.info)
                while (message := await life.process.receive()) is not None:
                    life.heard += 1
                    if isinstance(message, LoadFailed):
                        problem = message
                    else:
                        self._handle(message)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            problem = unreadable(error)
        finally:
            self._accepts = False
            for task in upkeep:
                task.cancel()
            await asyncio.gather(*upkeep, return_exceptions=True)
            running = await life.end(politely=self._state == "stopped" and ready_at is not None)  # a load finishes nothing
            self._life = None
        return life.death(problem, running, None if ready_at is None else time.monotonic() - ready_at)

    # --- while a worker serves ----------------------------------------------------------------------------------------

    def _look_after(self, life: WorkerSession, info: ModelInfo) -> list[asyncio.Task[None]]:
        watchdog = Watchdog(
            self._pending.characters_of,
            token_seconds=life.mode.token_seconds,
            context_tokens=info.context_tokens,
            grace=self._hang_seconds,
        )
        watching = life.watch(watchdog, lambda: len(self._pending), self._look_seconds)
        tasks = [asyncio.create_task(watching), asyncio.create_task(self._climb(life))]
        for task in tasks:
            task.add_done_callback(_tell_of_a_bug)
        return tasks

    async def _climb(self, life: WorkerSession) -> None:
        """Go back up when a mode's cool-down is over and its cause is gone."""
        waited = 0.0
        while True:
            await asyncio.sleep(self._look_seconds)
            mode = self._policy.due()
            waited = waited + self._look_seconds if mode else 0.0
            if mode is None or (len(self._pending) and waited < LONGEST_WAIT_FOR_QUIET):
                continue
            waited = 0.0
            log.info("trying mode %s again", mode.name)
            tried = await self._try(mode, life)
            if isinstance(tried, str):
                self._policy.stay(mode, tried)
                self._policy.remember()
                log.info("mode %s does not hold yet: %s", mode.name, tried)
                continue
            self._rising, self._successor = mode, tried
            while len(self._pending) and waited < LONGEST_WAIT_FOR_QUIET:
                waited += QUIET_STEP
                await asyncio.sleep(QUIET_STEP)
            # What it computes in this moment its successor computes again.
            life.process.kill()
            return

    async def _try(self, mode: ExecutionMode, beside: WorkerSession) -> WorkerSession | str | None:
        """Load the model on a mode beside another worker; gives that worker, or why the mode does not hold.

        None: nothing is in the way, but a card is not asked to hold the model twice.
        """
        if reason := await asyncio.to_thread(self._obstacle, mode):
            return reason
        if "none" not in (mode.gpu, beside.mode.gpu):
            return None
        return await WorkerSession.begin_and_load(mode, self._options, self._command, self._load_timeout)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _became_ready(self, mode: ExecutionMode, info: ModelInfo) -> None:
        self._info = info
        self._policy.remember()
        self._on_ready(info)
        self._set_state("ready", None)
        log.info("worker ready on mode %s: %s %s", mode.name, info.name, info.file_type)
        log.debug("%s", info.llama_cpp)
        self._accepts = True
        again = self._pending.items()
        if again and self._life:
            self._life.process.send(Embed(again))
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
        if self._life and self._accepts:
            self._life.process.send(Cancel([id_]))

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


def _tell_of_a_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("looking after a worker failed", exc_info=error)
