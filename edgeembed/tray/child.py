"""The daemon that the tray starts: a child process, restarted when it crashes, with its output in a log file."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeembed.background.process import BAD_SETTINGS, LoggedDaemon, popen
from edgeembed.common.backoff import Backoff
from edgeembed.common.logs import LOG_FILE
from edgeembed.tray.state import ChildStatus

log = logging.getLogger(__name__)

RESTART_BACKOFF = Backoff(first=1.0, longest=60.0)
STABLE_SECONDS = 30.0
"""A daemon that ran for so long before it crashed is restarted without a growing delay."""
MAX_QUICK_EXITS = 5
"""Exits in a row, each within STABLE_SECONDS of the start, after which it is not restarted."""
LAST_LINES = 5
"""Lines of its log that tell why it ended."""


class DaemonChild:
    """Runs `edgeembed serve`, logs its output, and restarts it when it exits unexpectedly."""

    def __init__(
        self,
        flags: Callable[[], Sequence[str]],
        logs: Path,
        *,
        start: Callable[..., subprocess.Popen[bytes]] = popen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare. flags: returns the arguments of `edgeembed serve` for each start. logs: folder of its log file."""
        self._flags = flags
        self._logs = logs
        self._start = start
        self._clock = clock
        self._daemon: LoggedDaemon | None = None
        self._failure = ""
        self._started_at = 0.0
        self._quick_exits = 0
        self._next_start: float | None = None
        self._wanted = False

    @property
    def status(self) -> ChildStatus | None:
        """Its current status; None if the tray has not started a daemon."""
        if self._daemon is None and not self._failure:
            return None
        lines = [self._failure] if self._failure or self._daemon is None else self._daemon.last_lines(LAST_LINES)
        running = self.running
        ended = None if running or self._daemon is None or self._failure else self._daemon.process.returncode
        gave_up = not running and not self._wanted
        return ChildStatus(running=running, last_lines=tuple(lines), gave_up=gave_up, exit_status=ended)

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._daemon is not None and self._daemon.running

    def is_process(self, pid: int) -> bool:
        """Return whether a process is the daemon or a descendant of it."""
        return self._daemon is not None and self._daemon.is_process(pid)

    @property
    def log_file(self) -> Path:
        """Where its output goes."""
        return self._logs / LOG_FILE if self._daemon is None else self._daemon.log_file

    def start(self) -> None:
        """Start it now, unless it is running."""
        self._wanted, self._quick_exits, self._next_start = True, 0, None
        if not self.running:
            self._run()

    def check(self) -> None:
        """Restart the daemon if it has exited and the delay is over. To be called regularly."""
        if not self._wanted or self.running:
            return
        now = self._clock()
        if self._next_start is None:
            assert self._daemon is not None
            self._on_exit(self._daemon.process.returncode, now - self._started_at, now)
        elif now >= self._next_start:
            self._next_start = None
            self._run()

    def expect_exit(self) -> None:
        """Do not restart it when it exits: it is about to be shut down."""
        self._wanted = False

    def wait(self, seconds: float) -> bool:
        """Wait for it to exit; return whether it has."""
        if self._daemon is None:
            return True
        try:
            self._daemon.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, seconds: float) -> None:
        """Terminate it by a signal if it is running; kill it if it takes longer than so many seconds."""
        self._wanted = False
        if self._daemon is None or not self.running:
            return
        self._daemon.process.terminate()
        if not self.wait(seconds):
            log.warning("the daemon did not exit within %.0f s; killing it", seconds)
            self._daemon.process.kill()
            self.wait(seconds)

    def _on_exit(self, status: int, uptime: float, now: float) -> None:
        if uptime >= STABLE_SECONDS:
            self._quick_exits = 0
        self._quick_exits += 1
        if status in (0, BAD_SETTINGS) or self._quick_exits >= MAX_QUICK_EXITS:
            log.warning("the daemon exited with status %d; not restarting it", status)
            self._wanted = False
            return
        delay = RESTART_BACKOFF.pause(self._quick_exits)
        log.warning("the daemon exited with status %d; restarting it in %.0f s", status, delay)
        self._next_start = now + delay

    def _run(self) -> None:
        self._started_at, self._failure = self._clock(), ""
        try:
            self._daemon = LoggedDaemon(self._flags(), self._logs, self._start)
        except OSError as error:
            log.error("cannot start the daemon: %s", error)
            self._failure = f"cannot start: {error}"
            self._wanted = False
