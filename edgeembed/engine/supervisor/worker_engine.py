"""The daemon's side of a worker: start it, feed it, and start the next one when it has ended (`recovery` decides how).

The supervisor keeps each text until its row has come back, so no request is lost when a worker dies: the next worker gets
its texts again. A text that was being computed when a worker crashed is tried again alone; when that crashes a worker too,
the text is at fault and ends with an error, and no other request is affected.

When the cool-down of a faster mode is over, a second worker tries it beside the one that serves, and takes over between two
requests once its canary texts have come out right.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgeembed.common.files import describe_os_error
from edgeembed.common.log_content import describe_error
from edgeembed.common.status import EngineStatus
from edgeembed.engine.causes import cause_of_os_error
from edgeembed.engine.execution_modes import ExecutionMode, ModeUnavailableError
from edgeembed.engine.interface import BULK, DENSE, INTERACTIVE, ModelInfo, Output, Priority, Row, Text, Tokenized, TokenWant
from edgeembed.engine.ipc.messages import Cancel, ComputedRows, Embed, Failed, FromWorker, ModeFailed, ReadTokens, Want
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.memory_guard import MemoryGuard
from edgeembed.engine.supervisor.pending import PendingTexts
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed.engine.supervisor.recovery import Recovery
from edgeembed.engine.supervisor.session import OptionsOf, WorkerExit, WorkerSession, unreadable
from edgeembed.engine.supervisor.watchdog import CHECK_SECONDS, GRACE_SECONDS, Watchdog
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError

log = logging.getLogger(__name__)

LONGEST_WAIT_FOR_QUIET = 30.0
"""A promotion waits for a moment without requests, but not longer than this."""
QUIET_STEP = 0.05

EngineState = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class WorkerTimeouts:
    """How long a worker may take, in seconds."""

    load: float = 300.0
    """Until it is ready."""
    hang: float = GRACE_SECONDS
    """For any work without a sign of progress; more work may take longer."""
    check: float = CHECK_SECONDS
    """Between two checks whether it hangs, and whether a faster mode is due."""


class WorkerEngine:
    """An `Engine` (see the protocol) whose model runs in a child process."""

    def __init__(
        self,
        options: OptionsOf,
        policy: FallbackPolicy,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        timeouts: WorkerTimeouts | None = None,
        on_ready: Callable[[ModelInfo], None] = lambda _info: None,
        require_room: Callable[[ExecutionMode], None] = lambda _mode: None,
        memory_guard: MemoryGuard | None = None,
    ) -> None:
        """Prepare; nothing starts yet.

        options: returns the options of a worker in a mode.
        command: starts a worker; mode and options are appended.
        on_ready: called with the model that each worker has loaded.
        require_room: called in a thread before a promotion, while another worker runs; raises ModeUnavailableError when the
            model cannot be loaded in that mode.
        """
        self._options = options
        self._policy = policy
        self._command = tuple(command)
        self._timeouts = timeouts or WorkerTimeouts()
        self._on_ready = on_ready
        self._require_room = require_room
        self._memory_guard = memory_guard or MemoryGuard()
        self._pending = PendingTexts(self._cancelled)
        self._recovery = Recovery(policy, self._memory_guard, self._pending)
        self._state: EngineState = "starting"
        self._reason: str | None = "the model is loading"
        self._info: ModelInfo | None = None
        self._session: WorkerSession | None = None
        """The worker now running."""
        self._accepts = False
        """Whether it is ready."""
        self._promotion: ExecutionMode | None = None
        """The mode of the next worker, once the one now running has ended for it."""
        self._successor: WorkerSession | None = None
        """A worker that is ready in that mode."""
        self._task: asyncio.Task[None] | None = None
        self._first_outcome: asyncio.Future[None] | None = None
        self._restarts = 0
        self._workers = 0
        """Those that became ready."""
        self._texts_computed = 0
        self._batches_computed = 0
        self._tokens_computed = 0

    # --- the engine's interface ---------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo | None:
        return self._info

    @property
    def status(self) -> EngineStatus:
        session = self._session
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
            busy_since=session.activity_table.busy_since if session else None,
            worker_pid=session.process.pid if session else None,
            mode_changes=self._policy.mode_changes,
            mode_changes_by_cause=self._policy.mode_changes_by_cause,
            offload=session.offload if session else None,
            reduction=self._memory_guard.reduction,
        )

    @property
    def is_over(self) -> bool:
        return self._state in ("failed", "stopped")

    async def start(self) -> None:
        if self._task is None:
            self._first_outcome = asyncio.get_running_loop().create_future()
            self._first_outcome.add_done_callback(asyncio.Future.exception)  # retrieved, even when no caller waits any more
            self._task = asyncio.create_task(self._supervise(), name="supervisor")
            self._task.add_done_callback(self._supervision_ended)
        assert self._first_outcome is not None
        await asyncio.shield(self._first_outcome)

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        return self._submit(texts, BULK if isolated else priority, "row", isolated=isolated, outputs=outputs)

    def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list[asyncio.Future[Tokenized]]:
        # As bulk: the thread that reads the pipe tokenises only for requests that wait for a vector.
        return self._submit(texts, BULK, want)

    def _submit(
        self,
        texts: Sequence[Text],
        priority: Priority,
        want: Want,
        *,
        isolated: bool = False,
        outputs: tuple[Output, ...] = DENSE,
    ) -> list[asyncio.Future[Any]]:
        items, futures = self._pending.add(texts, priority, want, isolated=isolated, outputs=outputs)
        if self.is_over:
            self._pending.fail_all(self._unavailable)
        elif self._session and self._accepts:
            # With other queries in flight the worker computes anyway, and the processor is better used for fewer messages.
            self._session.process.send_items(items, soon=priority == INTERACTIVE and self._pending.queries > len(items))
        return futures

    def distrust(self, reason: str) -> None:
        if self._session and self._accepts:
            self._session.distrust(reason)

    async def close(self) -> None:
        self._set_state("stopped", "the daemon is stopping")
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._successor:
            await self._successor.end(politely=False)
            self._successor = None
        self._pending.fail_all(self._unavailable)

    # --- one session after another ------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run workers until the engine is closed or no mode can help."""
        while True:
            mode = self._policy.mode
            exit_ = await self._run_session(mode)
            if self._promotion is not None:
                self._promote(self._promotion)
                continue
            log.warning("worker in mode %s ended: %s%s", mode.name, exit_.reason, self._requests_of(exit_.suspects))
            verdict = self._recovery.judge(exit_, worked=self._info is not None)
            if verdict.final:
                self._give_up(verdict.reason)
                return
            if self._info is not None:
                self._restarts += 1
                self._set_state("restarting", verdict.reason)
            if self._policy.mode is not mode:
                log.warning("continuing in mode %s (%s)", self._policy.mode.name, self._policy.mode.description)
            if pause := self._recovery.pause_after(exit_):
                log.info("the worker is restarted in %.1f s", pause)
                await asyncio.sleep(pause)

    def _promote(self, mode: ExecutionMode) -> None:
        """Let the next session run in a faster mode, in the worker that is ready there, if any."""
        self._promotion = None
        self._policy.promote(mode)
        log.info("promoted to mode %s (%s)", mode.name, mode.description)
        if self._successor is None:
            self._set_state("restarting", f"the model is loaded again, in mode {mode.name}")

    def _requests_of(self, ids: Sequence[int]) -> str:
        """Return the ids of the requests whose texts were being computed, for a log line."""
        found = self._pending.requests_of(ids)
        return f" [{', '.join(found)}]" if found else ""

    async def _run_session(self, mode: ExecutionMode) -> WorkerExit:
        """Start a worker, or take over the one that is ready; serve until it ends, and return how it ended."""
        session, self._successor = self._successor, None
        self._memory_guard.begin()
        try:
            session = session or await WorkerSession.start(mode, self._options_of, self._command)
        except EngineUnavailableError as error:
            return WorkerExit(error.message, "other", while_loading=True, from_outside=False, fatal=True)
        except ModeUnavailableError as error:
            return WorkerExit(str(error), error.cause, while_loading=True, from_outside=False)
        except OSError as error:  # no memory, process or file descriptor now
            reason = f"a worker cannot be started: {describe_os_error(error)}"
            return WorkerExit(reason, cause_of_os_error(error), while_loading=True, from_outside=True, never_ran=True)
        self._session = session
        ready_at: float | None = None
        failure: ModeFailed | None = None
        upkeep: list[asyncio.Task[None]] = []
        try:
            failure = await session.load(self._timeouts.load) if session.info is None else None
            if session.info is not None:
                ready_at = time.monotonic()
                self._became_ready(session, session.info)
                upkeep = self._start_upkeep(session, session.info)
                failure = await self._serve(session)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            failure = unreadable(error)
        finally:
            self._accepts = False
            for task in upkeep:
                task.cancel()
            await asyncio.gather(*upkeep, return_exceptions=True)
            # A worker that still loads has nothing to finish.
            running = await session.end(politely=self._state == "stopped" and ready_at is not None)
            self._session = None
        uptime = None if ready_at is None else time.monotonic() - ready_at
        return self._memory_guard.named(session.exit_of(failure, running, uptime))

    async def _serve(self, session: WorkerSession) -> ModeFailed | None:
        """Handle a worker's messages until it ends; return its failure if it sends one."""
        failures: list[ModeFailed] = []

        def handle(message: FromWorker) -> None:
            session.messages_received += 1
            if isinstance(message, ModeFailed):
                failures.append(message)
            else:
                self._handle(message)

        await session.process.deliver(handle)
        return failures[-1] if failures else None

    def _options_of(self, mode: ExecutionMode) -> WorkerOptions:
        """Return the options of the next worker in a mode. Called in a thread; raises what `options` raises."""
        return msgspec.structs.replace(self._options(mode), reduction=self._memory_guard.reduction)

    # --- while a worker serves ----------------------------------------------------------------------------------------

    def _start_upkeep(self, session: WorkerSession, info: ModelInfo) -> list[asyncio.Task[None]]:
        watchdog = Watchdog(
            self._pending.characters_of,
            token_seconds=session.mode.token_seconds,
            context_tokens=info.context_tokens,
            grace=self._timeouts.hang,
        )
        watching = session.watch(watchdog, lambda: len(self._pending), self._timeouts.check)
        tasks = [asyncio.create_task(watching), asyncio.create_task(self._seek_promotion(session))]
        for task in tasks:
            task.add_done_callback(_log_bug)
        return tasks

    async def _seek_promotion(self, session: WorkerSession) -> None:
        """Wait until a faster mode is due and works again, then end the worker so that one in that mode takes over."""
        waited = 0.0
        while True:
            await asyncio.sleep(self._timeouts.check)
            mode = self._policy.due()
            waited = waited + self._timeouts.check if mode else 0.0
            if mode is None or (len(self._pending) and waited < LONGEST_WAIT_FOR_QUIET):
                continue
            waited = 0.0
            log.info("trying mode %s again", mode.name)
            try:
                successor = await self._try(mode, session)
            except ModeUnavailableError as error:
                self._policy.stay(mode, str(error), cause=error.cause)
                self._policy.remember()
                log.info("mode %s does not work yet: %s", mode.name, error)
                continue
            self._promotion, self._successor = mode, successor
            while len(self._pending) and waited < LONGEST_WAIT_FOR_QUIET:
                waited += QUIET_STEP
                await asyncio.sleep(QUIET_STEP)
            # What it is computing now its successor computes again.
            session.process.kill()
            return

    async def _try(self, mode: ExecutionMode, beside: WorkerSession) -> WorkerSession | None:
        """Load the model in a mode beside another worker; return the new worker.

        None if it should work but a card would have to hold the model twice. Raises ModeUnavailableError.
        """
        await asyncio.to_thread(self._require_room, mode)
        if "none" not in (mode.gpu, beside.mode.gpu):
            return None
        return await WorkerSession.start_and_load(mode, self._options_of, self._command, self._timeouts.load)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _became_ready(self, session: WorkerSession, info: ModelInfo) -> None:
        self._info = info
        self._workers += 1
        self._policy.remember()
        self._on_ready(info)
        self._set_state("ready", None)
        log.info("worker ready in mode %s: %s %s", session.mode.name, info.name, info.file_type)
        log.debug("%s", info.llama_cpp)
        self._accepts = True
        if again := self._pending.items():
            session.process.send(Embed(again))
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_result(None)

    def _handle(self, message: FromWorker) -> None:
        match message:
            case ComputedRows(items):
                self._batches_computed += 1
                self._texts_computed += len(items)
                self._tokens_computed += sum(item.tokens for item in items)
                assert self._info is not None  # a worker that sends rows was ready
                self._pending.finish_rows(items, self._info.dimensions, self._workers)
            case ReadTokens():
                self._pending.finish_read(message)
            case Failed():
                self._pending.finish_failed(message)
            case _:
                raise ValueError(f"unexpected message {message!r}")

    def _cancelled(self, id_: int) -> None:
        """Let the worker drop a text that nobody waits for any more."""
        if self._session and self._accepts:
            self._session.process.send(Cancel([id_]))

    # --- states -------------------------------------------------------------------------------------------------------

    def _set_state(self, state: EngineState, reason: str | None) -> None:
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
        """Turn a bug in the supervisor into the state "failed"."""
        if not task.cancelled() and (error := task.exception()):
            log.error("the supervisor itself failed", exc_info=error)
            self._give_up(f"internal error: {describe_error(error)}")
        if self._first_outcome and not self._first_outcome.done():
            self._first_outcome.set_exception(self._unavailable())


def _log_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a background task of the supervisor failed", exc_info=error)
