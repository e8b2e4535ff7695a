"""Starts, stops and restarts the daemon: through the service manager that starts it at login, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from edgeembed import autostart
from edgeembed.autostart.base import Autostart, ServiceManager
from edgeembed.background.log_file import last_lines
from edgeembed.background.process import BAD_SETTINGS, LoggedDaemon, listener
from edgeembed.background.report import Report
from edgeembed.background.seen import Seen, inspect
from edgeembed.client import ask, daemon_url
from edgeembed.common.logs import LOG_FILE
from edgeembed.config.resolution import Resolved
from edgeembed.config.secrets import ENV_PREFIX, secret_names
from edgeembed.errors import ConfigError, EdgeEmbedError

POLL_SECONDS = 0.2
MANAGER_POLL_SECONDS = 1.0
"""Between two questions to a service manager, each of which starts a program."""
SILENT_SECONDS = 60.0
"""For which a daemon that a service manager calls running may not answer yet at its address."""
RESTART_SECONDS = 10.0
"""For which nobody listens at the address of a daemon that restarts, before it counts as ended."""
MARGIN_SECONDS = 5.0
"""Beyond its grace period before a daemon that is to stop is killed."""
END_LINES = 20
"""Lines of a log in which the reason of the end is looked for."""
RECENT_SECONDS = 60.0
"""An older log is another daemon's."""
LAST_LINES = 4
"""Lines of the log that are shown when the daemon has ended by itself."""


class Background:
    """The daemon at the address of the settings."""

    def __init__(self, resolved: Resolved, flags: Sequence[str], report: Report | None = None) -> None:
        """Prepare. flags: those of `edgeembed serve`, for a daemon that has to be started."""
        self._resolved = resolved
        self._settings = resolved.settings
        self._flags = flags
        self.report = report or Report()
        self.autostart: Autostart | None = None
        """What starts it at login on this system; None if there is no such thing."""
        with contextlib.suppress(ConfigError):  # under sudo, or on an unknown system
            self.autostart = autostart.current()
        if self._settings.port == 0 and not self._settings.uds:
            raise ConfigError("a daemon on a port that the system chooses cannot be found; set a port other than 0")

    @property
    def address_flags(self) -> list[str]:
        """The flags that lead other commands to this daemon, too, such as `--port 9000`."""
        return [
            word
            for name in ("host", "port", "uds")
            if self._resolved.origins[name] == "flag"
            for word in (f"--{name}", str(getattr(self._settings, name)))
        ]

    @property
    def url(self) -> str:
        """The daemon's base URL."""
        return daemon_url(self._settings)

    @property
    def model(self) -> str | None:
        """The model in the settings; None if they name none."""
        return None if self._settings.upstream else self._settings.model

    @property
    def log_file(self) -> Path:
        """The log of a daemon that is a process of its own."""
        return self._resolved.paths.logs / LOG_FILE

    def inspect(self) -> Seen:
        """Ask the daemon's address."""
        return inspect(self._settings)

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self) -> tuple[Seen, bool]:
        """Start the daemon unless it runs, and wait until it is ready; return what answers, and whether it was started.

        Raises EdgeEmbedError if it does not start, with the last lines of its log.
        """
        seen = self.inspect()
        if seen.who == "another program":
            raise ConfigError(f"a program other than edgeembed answers at {seen.url}; choose another port with --port")
        if seen.running:
            return seen, False
        manager = self._manager_for_start()
        if manager is not None:
            self.report(f"starting it through {manager.name}")
            manager.start()
            return self._wait_for_managed(manager), True
        return self._wait_for_process(LoggedDaemon(self._flags, self._resolved.paths.logs))

    def _manager_for_start(self) -> ServiceManager | None:
        """Return the service manager whose entry starts a daemon with our settings; None if there is none."""
        entry = self.autostart.entry() if self.autostart else None
        manager = self.autostart.manager() if self.autostart else None
        if entry is None or manager is None or self.autostart is None:
            return None
        if not entry.current:
            self.report(
                "the entry that starts edgeembed at login is another installation's or version's, and is not used now; "
                "to update it: edgeembed autostart enable"
            )
            return None
        if theirs := self._not_from_the_file():
            self.report(f"not through {manager.name}, whose daemon has the settings of config.toml, not {', '.join(theirs)}")
            return None
        return manager

    def _not_from_the_file(self) -> list[str]:
        """Return the flags and variables in effect; not keys, which a client needs, too."""
        found = []
        for name, origin in self._resolved.origins.items():
            if origin == "flag":
                found.append(f"--{name.replace('_', '-')}")
            elif origin == "environment" and name not in secret_names():
                found.append(f"{ENV_PREFIX}{name.upper()}")
        return found

    def _wait_for_process(self, daemon: LoggedDaemon) -> tuple[Seen, bool]:
        while True:
            ended = not daemon.running
            seen = self.inspect()
            if seen.running:
                if ended:  # it found the address in use: another one was started at the same time
                    return seen, False
                if not self._is_starting(seen):
                    return seen, True
            elif ended:
                status = daemon.process.returncode
                raise _ended(f"the daemon ended with exit status {status}", daemon.last_lines(LAST_LINES), status)
            time.sleep(POLL_SECONDS)

    def _wait_for_managed(self, manager: ServiceManager) -> Seen:
        began = asked = time.monotonic()
        while True:
            seen = self.inspect()
            if seen.running and not self._is_starting(seen):
                return seen
            now = time.monotonic()
            if not seen.running and now - asked >= MANAGER_POLL_SECONDS:
                asked, found = now, manager.inspect()
                if found is None or found.state in ("failed", "stopped", "restarting"):
                    what = "is started again after each end" if found and found.state == "restarting" else "does not run"
                    raise _ended(f"the daemon {what}; edgeembed logs has more", self.last_log_lines(manager), 1)
                if found.state == "running" and now - began >= SILENT_SECONDS:  # it ran before, perhaps at another address
                    raise EdgeEmbedError(
                        f"{manager.name} runs the daemon, but it does not answer at {seen.url}: it has older settings, or "
                        "hangs. To restart it: edgeembed restart"
                    )
            time.sleep(POLL_SECONDS)

    def _is_starting(self, seen: Seen) -> bool:
        """Return whether a daemon that answers is not ready yet, and report what it does. Raises EdgeEmbedError."""
        if seen.failure:
            raise EdgeEmbedError(f"the daemon runs at {seen.url}, but its model does not: {seen.failure}")
        if seen.stage is None:
            return False
        self.report.stage(seen.stage)
        return True

    # --- stop ---------------------------------------------------------------------------------------------------------

    def stop(self) -> bool:
        """Stop the daemon and wait until it is gone; return whether there was one. Raises EdgeEmbedError."""
        seen = self.inspect()
        if seen.who == "another program":
            raise ConfigError(f"a program other than edgeembed answers at {seen.url}; it is not stopped")
        process = listener(self._settings)
        if (manager := self.manager_of(seen, process)) is not None:
            self.report(f"stopping it through {manager.name}")
            manager.stop()
            self._end(process)
        elif seen.running:
            self._shut_down(seen, process)
        elif process is not None:
            self.report(f"process {process.pid} listens at {seen.url} but does not answer; ending it")
            _quietly(process.terminate)
            self._end(process)
        else:
            return False
        return True

    def _shut_down(self, seen: Seen, process: psutil.Process | None) -> None:
        reply = asyncio.run(ask(self._settings, "/v1/admin/shutdown", body={}))
        if reply is not None and reply.status != 200:
            if process is None:
                raise EdgeEmbedError(f"the daemon at {seen.url} refuses to stop: {reply.reason}")
            _quietly(process.terminate)  # it is ours, only the key is missing
        self._end(process)

    def _end(self, process: psutil.Process | None) -> None:
        """Wait until the daemon is gone; kill it if that takes too long."""
        seconds = self._settings.grace_period + MARGIN_SECONDS
        if process is None:
            if not _until(lambda: self.inspect().who == "nobody", seconds):
                raise EdgeEmbedError(f"the daemon still answers after {seconds:.0f} s; it is another user's, or far away")
            return
        if not _until(lambda: _is_gone(process), seconds):
            self.report(f"it did not end within {seconds:.0f} s: process {process.pid} is killed")
            _quietly(process.kill)
            if not _until(lambda: _is_gone(process), MARGIN_SECONDS):
                raise EdgeEmbedError(f"process {process.pid} cannot be killed")

    def restart(self) -> tuple[Seen, bool]:
        """Stop the daemon if it runs, and start it as it was started before; return as `start` does."""
        seen = self.inspect()
        manager = self.manager_of(seen, listener(self._settings))
        if manager is None and seen.running and seen.status is None:
            # Started anew by us, a daemon that requires a key might not require it any more.
            raise ConfigError(f"the daemon at {seen.url} cannot be asked to restart: {seen.problem}")
        if manager is None and seen.pid is not None and self._resolved.origins["model"] != "flag":
            reply = asyncio.run(ask(self._settings, "/v1/admin/restart", body={}))
            if reply is not None and reply.status == 200:  # with its own flags and variables
                return self._wait_for_restarted(), True
            if reply is not None and reply.status == 409:  # stopped now, it would not start again
                raise ConfigError(f"the daemon at {seen.url} goes on with its old settings: {reply.reason}")
        self.stop()
        if manager is None:
            return self.start()
        manager.start()
        return self._wait_for_managed(manager), True

    def _wait_for_restarted(self) -> Seen:
        began = time.monotonic()
        gone_since: float | None = None
        while True:
            seen, now = self.inspect(), time.monotonic()
            if seen.running:
                gone_since = None
                if seen.status and seen.status.uptime_seconds < now - began and not self._is_starting(seen):
                    return seen
            elif listener(self._settings) is None:
                gone_since = gone_since or now
                if now - gone_since > RESTART_SECONDS:
                    raise _ended("the daemon did not start again", self.last_log_lines(None), 1)
            time.sleep(POLL_SECONDS)

    # --- who runs it --------------------------------------------------------------------------------------------------

    def managers(self) -> list[ServiceManager]:
        """Return the service managers of this system that may run the daemon: the user's, and the system's."""
        found = self.autostart.manager() if self.autostart else None
        managers = [found] if found is not None else []
        if sys.platform.startswith("linux") and shutil.which("systemctl"):
            from edgeembed.autostart.systemd import Unit

            managers.append(Unit("--system"))
        return managers

    def manager_of(self, seen: Seen, process: psutil.Process | None) -> ServiceManager | None:
        """Return the service manager that runs the daemon at our address; None if it is a process of its own.

        process: the one that listens there, as far as we see it.
        """
        pids = {pid for pid in (seen.pid, process.pid if process else None) if pid is not None}
        for manager in self.managers():
            managed = manager.inspect()
            if managed is None:
                continue
            if managed.pid in pids:
                return manager
            # It ends again and again, or hangs before it listens.
            if not pids and managed.state in ("starting", "running", "restarting") and not self._not_from_the_file():
                return manager
        return None

    def last_manager(self) -> ServiceManager | None:
        """Return the service manager that ran the daemon last and knows why it ended; None if none has an entry for it."""
        for manager in self.managers():
            if manager.inspect() is not None and not self._not_from_the_file():
                return manager
        return None

    def started_by(self, process: psutil.Process | None, manager: ServiceManager | None) -> str:
        """Return who started the daemon, for people."""
        if manager is not None:
            return manager.name
        if process is None:
            return "another user, or another machine"
        try:
            parent = process.parent()
            if parent is not None and "tray" in parent.cmdline():
                return "the tray icon"
            if terminal := getattr(process, "terminal", lambda: None)():
                return f"a terminal ({terminal})"
        except psutil.Error:
            pass
        return "a command, in the background"

    def last_log_lines(self, manager: ServiceManager | None, count: int = LAST_LINES) -> list[str]:
        """Return the last lines of the log of the daemon, which has ended; none if they cannot be read."""
        command = manager.log_command(count, follow=False) if manager else None
        if command is None:
            try:
                return last_lines(self.log_file, count)
            except OSError:
                return []
        try:
            done = subprocess.run(
                [*command, "--output=cat"], capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        return done.stdout.splitlines()

    def lines_of_ended(self) -> list[str]:
        """Return the end of the log of a daemon that ended a moment ago and is not our child; none if nobody kept it."""
        manager = self.last_manager()
        managed = manager.inspect() if manager else None
        if manager is not None and managed is not None and managed.state in ("failed", "restarting"):
            return self.last_log_lines(manager, END_LINES)
        with contextlib.suppress(OSError):
            if time.time() - self.log_file.stat().st_mtime < RECENT_SECONDS:
                return last_lines(self.log_file, END_LINES)
        return []


def _ended(what: str, lines: Sequence[str], status: int) -> EdgeEmbedError:
    lines = [line for line in lines if line.startswith("error: ")] or lines
    kind = ConfigError if status == BAD_SETTINGS else EdgeEmbedError
    return kind("\n  ".join([f"{what}. Its log ends with:" if lines else f"{what}; its log is empty", *lines]))


def _is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended; one that nobody waits for, as in containers, stays as a zombie."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise EdgeEmbedError(f"process {error.pid} is another user's") from error


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, at most so long; return whether it does."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True
