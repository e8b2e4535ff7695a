"""One worker from its start to its end: load the model, be watched, and how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edgeembed.engine.execution_modes import ExecutionMode, ModeUnavailableError
from edgeembed.engine.interface import ModelInfo
from edgeembed.engine.ipc.activity_table import ActivityTable
from edgeembed.engine.ipc.messages import LoadFailed, Ready, Stage
from edgeembed.engine.supervisor.process import WorkerProcess
from edgeembed.engine.supervisor.watchdog import Watchdog
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError

log = logging.getLogger(__name__)

OptionsOf = Callable[[ExecutionMode], WorkerOptions]
"""What a worker on a given mode shall do, asked in a thread; raises ModeUnavailableError when that mode cannot hold, OSError
when nothing can run just now, EngineUnavailableError when it never can."""


@dataclass(frozen=True)
class WorkerExit:
    """How a worker's life ended."""

    reason: str
    while_loading: bool
    from_outside: bool
    """Killed by somebody else, not by its own kernels."""
    fatal: bool
    """No other mode can help."""
    suspects: tuple[int, ...] = ()
    """Ids of the texts that were being read or computed."""
    lived: float = 0.0
    """Seconds since it was ready."""
    never_ran: bool = False
    """There was no process."""


@dataclass
class WorkerSession:
    """A worker that was started."""

    mode: ExecutionMode
    process: WorkerProcess
    activity_table: ActivityTable
    offload: str | None
    """What of the model is on which graphics card, in words."""
    info: ModelInfo | None = None
    """What it said of the model when it was ready."""
    doing: str = "starting"
    """What it was at before it was ready."""
    hang: str | None = None
    """Why the watchdog ended it."""
    heard: int = 0
    """Messages that came from it since it was ready."""

    @classmethod
    async def begin(cls, mode: ExecutionMode, options_of: OptionsOf, command: Sequence[str]) -> WorkerSession:
        """Start a worker. Raises what `options_of` raises, and OSError."""
        options = await asyncio.to_thread(options_of, mode)  # a mode on a graphics card looks what is free there
        activity_table = ActivityTable.create()
        try:
            process = await WorkerProcess.start(
                command, msgspec.structs.replace(options, activity_table=str(activity_table.path))
            )
        except BaseException:  # a daemon that is told to stop meanwhile, too
            activity_table.close(remove=True)
            raise
        return cls(
            mode, process, activity_table, f"{options.gpu_layers} layers on {options.device}" if options.gpu_layers else None
        )

    @classmethod
    async def begin_and_load(
        cls, mode: ExecutionMode, options_of: OptionsOf, command: Sequence[str], most_silence: float
    ) -> WorkerSession | str:
        """Start a worker and wait until it is ready; where it does not get there, it is ended, and the reason given."""
        try:
            life = await cls.begin(mode, options_of, command)
        except (OSError, ModeUnavailableError, EngineUnavailableError) as error:
            return str(error)
        problem: LoadFailed | None = None
        try:
            problem = await life.load(most_silence)
        finally:
            if life.info is None:
                await life.end(politely=False)
        return life if life.info is not None else problem.reason if problem else life.exit_report()

    async def load(self, most_silence: float) -> LoadFailed | None:
        """Wait until the worker is ready, which fills `info`; gives its problem, if it tells of one.

        most_silence: seconds between two messages.
        """
        problem: LoadFailed | None = None
        try:
            while self.info is None:
                message = await asyncio.wait_for(self.process.receive(), most_silence)
                if message is not None:
                    self.activity_table.unlink()  # whoever speaks has it open
                match message:
                    case None:
                        break
                    case Stage(stage):
                        self.doing = stage
                    case Ready(info):
                        self.info = info
                    case LoadFailed() as problem:
                        pass
                    case _:
                        raise ValueError(f"unexpected message {message!r}")
        except TimeoutError:
            return LoadFailed(f"no answer for {most_silence:g} s while {self.doing}", fatal=False)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            return unreadable(error)
        return problem

    async def watch(self, watchdog: Watchdog, waiting: Callable[[], int], look_seconds: float) -> None:
        """End the worker when it hangs. waiting: gives how many texts have no outcome yet."""
        clock = asyncio.get_running_loop().time
        last = clock()
        while self.hang is None:
            await asyncio.sleep(look_seconds)
            # A daemon that stood still itself must not take it for the worker's silence.
            seconds, last = min(clock() - last, 2 * look_seconds), clock()
            count = waiting()
            entries = self.activity_table.entries if count else {}
            self.hang = watchdog.look(entries, waiting=count, heard=self.heard, seconds=seconds)
        log.warning("worker %d hangs: %s", self.process.pid, self.hang)
        self.process.kill()

    async def end(self, *, politely: bool) -> tuple[int, ...]:
        """End the process; gives the ids of the texts that it was at."""
        await self.process.end(politely=politely)
        running = self.activity_table.running
        self.activity_table.close(remove=True)
        return running

    def death(self, problem: LoadFailed | None, running: tuple[int, ...], lived: float | None) -> WorkerExit:
        """Say how it ended. problem: what it said itself. running: what `end` gave. lived: seconds since it was ready."""
        if self.hang:
            problem = LoadFailed(self.hang, fatal=False)
        return WorkerExit(
            reason=problem.reason if problem else self.exit_report(running),
            while_loading=lived is None,
            from_outside=problem is None and self.process.killed_from_outside,
            fatal=problem is not None and problem.fatal,
            suspects=running,
            lived=lived or 0.0,
        )

    def exit_report(self, running: tuple[int, ...] = ()) -> str:
        """Say how the process ended and what it was at."""
        return self.process.exit_report(self.doing if self.info is None else "computing" if running else "idle")


def unreadable(error: Exception) -> LoadFailed:
    """Give what to say of bytes that are no message."""
    return LoadFailed(f"the worker's answers are not readable: {error}", fatal=False)
