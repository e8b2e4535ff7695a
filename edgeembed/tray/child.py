"""The daemon that the tray starts: a child process that is watched, started again when it dies, and asked to finish."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

import psutil

from edgeembed.common.logs import LOG_FILE, put_aside
from edgeembed.tray.state import Child

log = logging.getLogger(__name__)

FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 60.0
STEADY_SECONDS = 30.0
"""A daemon that ran for so long and then died is worth starting at once."""
MOST_QUICK_ENDS = 5
"""Ends in a row, each soon after the start, after which it is left alone."""
BAD_SETTINGS = 2
"""Exit status of `edgeembed` when what it was told cannot be."""


def command(*arguments: str) -> list[str]:
    """Give the command line that runs `edgeembed` with these arguments."""
    if getattr(sys, "frozen", False):  # a bundle is the command itself
        return [sys.executable, *arguments]
    # -P: a login starts in the user's home, whose files must not be taken for modules.
    return [sys.executable, "-P", "-m", "edgeembed", *arguments]


def popen(arguments: Sequence[str], *, stderr: int) -> subprocess.Popen[bytes]:
    """Start `edgeembed` with these arguments, so that neither a Ctrl-C in our terminal nor our end stops it.

    Raises OSError.
    """
    no_window = 0x08000000 if sys.platform == "win32" else 0  # CREATE_NO_WINDOW, which only Windows' subprocess names
    return subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
        creationflags=no_window,
    )


class DaemonChild:
    """Starts `edgeembed serve`, writes down what it says, and starts it again when it dies by itself."""

    def __init__(
        self,
        flags: Callable[[], Sequence[str]],
        logs: Path,
        *,
        start: Callable[..., subprocess.Popen[bytes]] = popen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; flags: gives what `edgeembed serve` is told at each start; logs: the folder of its log."""
        self._flags = flags
        self._logs = logs
        self._start = start
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=5)
        self._started_at = 0.0
        self._quick_ends = 0
        self._next_start: float | None = None
        self._wanted = False

    @property
    def status(self) -> Child | None:
        """How it is; None when the tray has not started one."""
        if self._process is None and not self._lines:
            return None
        last = self._lines[-1] if self._lines else ""
        return Child(running=self.running, last_line=last, gave_up=not self.running and not self._wanted)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def is_process(self, pid: int) -> bool:
        """Say whether a process is the daemon that was started, or was started by it, as on Windows."""
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
        """Start it now, unless it runs."""
        self._wanted, self._quick_ends, self._next_start = True, 0, None
        if not self.running:
            self._run()

    def watch(self) -> None:
        """Notice that it has ended, and start it again when its time has come. Called now and then."""
        if not self._wanted or self.running:
            return
        now = self._clock()
        if self._next_start is None:
            assert self._process is not None
            self._note_end(self._process.returncode, now - self._started_at, now)
        elif now >= self._next_start:
            self._next_start = None
            self._run()

    def let_go(self) -> None:
        """Do not start it again when it ends: somebody has asked it to."""
        self._wanted = False

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; says whether it has."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if self._reader is not None:
            self._reader.join(1.0)
        return True

    def end(self, seconds: float) -> None:
        """End it by a signal where it did not hear that it should; kill it when that takes longer than the seconds."""
        self._wanted = False
        if self._process is None or not self.running:
            return
        self._process.terminate()
        if not self.wait(seconds):
            log.warning("the daemon does not end; it is killed")
            self._process.kill()
            self.wait(seconds)

    def _note_end(self, status: int, lived: float, now: float) -> None:
        if self._reader is not None:
            self._reader.join(1.0)
        if lived >= STEADY_SECONDS:
            self._quick_ends = 0
        self._quick_ends += 1
        if status in (0, BAD_SETTINGS) or self._quick_ends >= MOST_QUICK_ENDS:
            log.warning("the daemon has ended with status %d and is left alone", status)
            self._wanted = False
            return
        rest = min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS * 2 ** (self._quick_ends - 1))
        log.warning("the daemon has ended with status %d; it starts again in %.0f s", status, rest)
        self._next_start = now + rest

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
        """Write what it says to its log file. Its pipe is emptied even where that cannot be written: it would block."""
        assert process.stderr is not None
        file: FileIO | None = None
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            put_aside(self.log_file)
            file = self.log_file.open("ab", buffering=0)
        except OSError as error:
            log.warning("cannot write %s: %s", self.log_file, error)
        with process.stderr as said:
            for raw in said:
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
