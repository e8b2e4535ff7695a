"""A worker session: one worker process from its start to its exit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edgeembed.common.log_content import describe_error
from edgeembed.engine.causes import Cause, cause_of_os_error
from edgeembed.engine.execution_modes import ExecutionMode, ModeUnavailableError
from edgeembed.engine.interface import ModelInfo
from edgeembed.engine.ipc.activity_table import ActivityTable
from edgeembed.engine.ipc.messages import ModeFailed, Ready, Stage
from edgeembed.engine.supervisor.process import WorkerProcess
from edgeembed.engine.supervisor.watchdog import Hang, Watchdog
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError

log = logging.getLogger(__name__)

OptionsOf = Callable[[ExecutionMode], WorkerOptions]
"""Returns the options of a worker in a mode; called in a thread. Raises ModeUnavailableError when the model cannot run in
that mode now, OSError when nothing can be started now, EngineUnavailableError when nothing ever can."""


@dataclass(frozen=True)
class WorkerExit:
    """How a worker session ended."""

    reason: str
    """For people."""
    cause: Cause
    while_loading: bool
    from_outside: bool
    """Killed by somebody else, not by its own kernels."""
    fatal: bool = False
    """No other mode can help."""
    suspects: tuple[int, ...] = ()
    """Ids of the texts that were being tokenised or computed."""
    unreadable: tuple[int, ...] = ()
    """Ids of the texts on whose tokens it hung: they are at fault, and nothing else is."""
    uptime: float = 0.0
    """Seconds since the worker was ready."""
    served: bool = False
    """It has sent rows, or why there are none."""
    never_ran: bool = False
    """There was no process."""


@dataclass
class WorkerSession:
    """A worker that was started."""

    mode: ExecutionMode
    process: WorkerProcess
    activity_table: ActivityTable
    offload: str | None
    """Which part of the model is on which graphics card, for people."""
    info: ModelInfo | None = None
    """The loaded model; None until the worker is ready."""
    stage: str = "starting"
    """What the worker does before it is ready, for people."""
    hang: Hang | None = None
    """Why the watchdog ended the worker."""
    wrong: str | None = None
    """What was wrong with a row of it."""
    messages_received: int = 0
    """Since the worker was ready."""

    @classmethod
    async def start(cls, mode: ExecutionMode, options_of: OptionsOf, command: Sequence[str]) -> WorkerSession:
        """Start a worker. Raises OSError and what `options_of` raises."""
        options = await asyncio.to_thread(options_of, mode)  # a mode on a graphics card asks how much memory is free there
        activity_table = ActivityTable.create()
        try:
            process = await WorkerProcess.start(
                command, msgspec.structs.replace(options, activity_table=str(activity_table.path))
            )
        except BaseException:  # cancellation included
            activity_table.close(remove=True)
            raise
        return cls(
            mode, process, activity_table, f"{options.gpu_layers} layers on {options.device}" if options.gpu_layers else None
        )

    @classmethod
    async def start_and_load(
        cls, mode: ExecutionMode, options_of: OptionsOf, command: Sequence[str], load_seconds: float
    ) -> WorkerSession:
        """Start a worker and wait until it is ready. When it fails, end it and raise ModeUnavailableError."""
        try:
            session = await cls.start(mode, options_of, command)
        except OSError as error:
            raise ModeUnavailableError(str(error), cause_of_os_error(error)) from error
        except EngineUnavailableError as error:
            raise ModeUnavailableError(error.message, "other") from error
        failure: ModeFailed | None = None
        try:
            failure = await session.load(load_seconds)
        finally:
            if session.info is None:
                await session.end(politely=False)
        if session.info is not None:
            return session
        if failure is not None:
            raise ModeUnavailableError(failure.reason, failure.cause)
        raise ModeUnavailableError(session.exit_report(), session.process.exit_cause)

    async def load(self, load_seconds: float) -> ModeFailed | None:
        """Wait until the worker is ready and set `info`; return its failure if it sends one.

        load_seconds: longest time between two messages.
        """
        failure: ModeFailed | None = None
        try:
            while self.info is None:
                async with asyncio.timeout(load_seconds):
                    message = await self.process.receive()
                if message is not None:
                    self.activity_table.unlink()  # a worker that sends messages has it open
                match message:
                    case None:
                        break
                    case Stage(stage):
                        self.stage = stage
                    case Ready(info):
                        self.info = info
                    case ModeFailed() as failure:
                        pass
                    case _:
                        raise ValueError(f"unexpected message {type(message).__name__}")
        except TimeoutError:
            return ModeFailed(f"no answer for {load_seconds:g} s while {self.stage}", "hang")
        except (OSError, ValueError, msgspec.DecodeError) as error:
            return unreadable(error)
        return failure

    async def watch(self, watchdog: Watchdog, waiting: Callable[[], int], check_seconds: float) -> None:
        """Kill the worker when it hangs. waiting: returns the number of texts without an outcome."""
        clock = asyncio.get_running_loop().time
        last = clock()
        while self.hang is None:
            await asyncio.sleep(check_seconds)
            # When the daemon itself was suspended, its absence must not count as the worker's silence.
            seconds, last = min(clock() - last, 2 * check_seconds), clock()
            count = waiting()
            entries = self.activity_table.entries if count else {}
            self.hang = watchdog.check(entries, waiting=count, received=self.messages_received, seconds=seconds)
        log.warning("worker %d hangs: %s", self.process.pid, self.hang.description)
        self.process.kill()

    def distrust(self, reason: str) -> None:
        """Kill the worker because it computed a wrong row."""
        self.wrong = reason
        self.process.kill()

    async def end(self, *, politely: bool) -> tuple[int, ...]:
        """End the process; return the ids of the texts that it was working on."""
        await self.process.end(politely=politely)
        running = self.activity_table.running
        self.activity_table.close(remove=True)
        return running

    def exit_of(self, failure: ModeFailed | None, running: tuple[int, ...], uptime: float | None) -> WorkerExit:
        """Return how the session ended, after `end`.

        failure: what the worker sent. running: what `end` returned. uptime: seconds since it was ready, None if never.
        """
        if self.hang:
            failure = ModeFailed(self.hang.description, "hang")
        elif self.wrong:
            failure = ModeFailed(self.wrong, "wrong_vectors")
        return WorkerExit(
            reason=failure.reason if failure else self.exit_report(running),
            cause=failure.cause if failure else self.process.exit_cause,
            while_loading=uptime is None,
            from_outside=failure is None and self.process.killed_from_outside,
            fatal=failure is not None and failure.fatal,
            suspects=() if self.wrong else running,
            unreadable=self.hang.texts if self.hang else (),
            uptime=uptime or 0.0,
            served=self.messages_received > 0,
        )

    def exit_report(self, running: tuple[int, ...] = ()) -> str:
        """Return how the process ended and what it was doing, for people."""
        return self.process.exit_report(self.stage if self.info is None else "computing" if running else "idle")


def unreadable(error: Exception) -> ModeFailed:
    """Return the failure of a worker that sent bytes which are not a message."""
    return ModeFailed(f"the worker's messages cannot be read: {describe_error(error)}", "other")
