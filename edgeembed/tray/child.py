"""The daemon that the tray starts: a child process, restarted when it crashes, with its output in a log file."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path

import psutil

from edgeembed.common.backoff import Backoff
from edgeembed.common.logs import LOG_FILE, rotate_log
from edgeembed.common.program import command
from edgeembed.tray.state import ChildStatus

log = logging.getLogger(__name__)

RESTART_BACKOFF = Backoff(first=1.0, longest=60.0)
STABLE_SECONDS = 30.0
"""A daemon that ran for so long before it crashed is restarted without a growing delay."""
MAX_QUICK_EXITS = 5
"""Exits in a row, each within STABLE_SECONDS of the start, after which it is not restarted."""
BAD_SETTINGS = 2
"""Exit status of `edgeembed` for unusable settings."""


def popen(arguments: Sequence[str], *, stderr: int, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start `edgeembed` so that neither a Ctrl-C in our terminal nor our exit stops it. Raises OSError.

    environ: its variables; None for ours.
    """
    no_window = 0x08000000 if sys.platform == "win32" else 0  # subprocess.CREATE_NO_WINDOW, which exists only on Windows
    return subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=environ,
        start_new_session=True,
        creationflags=no_window,
    )


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
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=5)
        self._started_at = 0.0
        self._quick_exits = 0
        self._next_start: float | None = None
        self._wanted = False

    @property
    def status(self) -> ChildStatus | None:
        """Its current status; None if the tray has not started a daemon."""
        if self._process is None and not self._lines:
            return None
        last = self._lines[-1] if self._lines else ""
        return ChildStatus(running=self.running, last_line=last, gave_up=not self.running and not self._wanted)

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def is_process(self, pid: int) -> bool:
        """Return whether a process is the daemon or a descendant of it (on Windows, launchers start the real process)."""
        if self._process is None or not self.running:
            return False
        if pid == self._process.pid:
            return True
        try:
            return self._process.pid in {parent.pid for parent in psutil.Process(pid).parents()}
        except psutil.Error:
            return False

    @property
    def log_file(self) -> Path:
        return self._logs / LOG_FILE

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
            assert self._process is not None
            self._on_exit(self._process.returncode, now - self._started_at, now)
        elif now >= self._next_start:
            self._next_start = None
            self._run()

    def expect_exit(self) -> None:
        """Do not restart it when it exits: it is about to be shut down."""
        self._wanted = False

    def wait(self, seconds: float) -> bool:
        """Wait for it to exit; return whether it has."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if self._reader is not None:
            self._reader.join(1.0)
        return True

    def stop(self, seconds: float) -> None:
        """Terminate it by a signal if it is running; kill it if it takes longer than so many seconds."""
        self._wanted = False
        if self._process is None or not self.running:
            return
        self._process.terminate()
        if not self.wait(seconds):
            log.warning("the daemon did not exit within %.0f s; killing it", seconds)
            self._process.kill()
            self.wait(seconds)

    def _on_exit(self, status: int, uptime: float, now: float) -> None:
        if self._reader is not None:
            self._reader.join(1.0)
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
        self._lines.clear()
        self._started_at = self._clock()
        try:
            process = self._start(["serve", *self._flags()], stderr=subprocess.PIPE)
        except OSError as error:
            log.error("cannot start the daemon: %s", error)
            self._lines.append(f"cannot start: {error}")
            self._wanted = False
            return
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), name="daemon log", daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Copy its output to the log file. The pipe is read even if the file cannot be written: the daemon would block."""
        assert process.stderr is not None
        file: FileIO | None = None
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            rotate_log(self.log_file)
            file = self.log_file.open("ab", buffering=0)
        except OSError as error:
            log.warning("cannot write %s: %s", self.log_file, error)
        with process.stderr as output:
            for raw in output:
                if line := raw.decode(errors="replace").strip():
                    self._lines.append(line)
                if file is None:
                    continue
                try:
                    file.write(raw)
                except OSError as error:
                    log.warning("cannot write %s: %s", self.log_file, error)
                    file.close()
                    file = None
        if file is not None:
            file.close()
