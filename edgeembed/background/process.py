"""A daemon as a process of its own, and the process that listens at an address."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from edgeembed.common.logs import LOG_FILE, rotate_log
from edgeembed.common.program import command, start_detached
from edgeembed.config.settings import Settings

log = logging.getLogger(__name__)

BAD_SETTINGS = 2
"""Exit status of `edgeembed serve` for unusable settings."""


def popen(
    arguments: Sequence[str], *, stderr: Any = subprocess.DEVNULL, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `edgeembed` so that neither a Ctrl-C in our terminal nor our exit stops it. Raises OSError.

    environ: its variables; None for ours.
    """
    return start_detached(command(*arguments), stderr=stderr, env=environ)


class LoggedDaemon:
    """A process `edgeembed serve` whose standard error is the log file, also after we have ended."""

    def __init__(self, flags: Sequence[str], logs: Path, start: Any = popen) -> None:
        """Start it. logs: folder of its log file. start: as `popen`. Raises OSError."""
        self.log_file = logs / LOG_FILE
        self._begin = 0
        try:
            logs.mkdir(parents=True, exist_ok=True)
            rotate_log(self.log_file)
            opened = self.log_file.open("ab", buffering=0)
            self._begin = opened.tell()
        except OSError as error:
            descriptor, name = tempfile.mkstemp(prefix="edgeembed-", suffix=".log")
            opened = os.fdopen(descriptor, "ab", buffering=0)
            log.warning("cannot write %s: %s; the log is %s", self.log_file, error.strerror, name)
            self.log_file = Path(name)
        with opened:
            self.process: subprocess.Popen[bytes] = start(["serve", *flags], stderr=opened)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that were logged since it was started; none if the log cannot be read."""
        from edgeembed.background.log_file import last_lines

        with contextlib.suppress(OSError):
            return [line for line in last_lines(self.log_file, count, begin=self._begin) if line.strip()]
        return []

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def is_process(self, pid: int) -> bool:
        """Return whether a process is the daemon or a descendant of it (on Windows, launchers start the real process)."""
        if not self.running:
            return False
        if pid == self.process.pid:
            return True
        try:
            return self.process.pid in {parent.pid for parent in psutil.Process(pid).parents()}
        except psutil.Error:
            return False


def listener(settings: Settings) -> psutil.Process | None:
    """Return the edgeembed of this machine that listens at the address of the settings; None if we see none.

    Those of other users can be seen by an administrator only.
    """
    for process in _daemons():
        with contextlib.suppress(psutil.Error, OSError):
            if any(_is_at(settings, each) for each in process.net_connections("unix" if settings.uds else "tcp")):
                return process
    return None


def _daemons() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "serve" in words and any("edgeembed" in word for word in words[: words.index("serve")]):
            yield process


def _is_at(settings: Settings, connection: Any) -> bool:
    if settings.uds:
        return bool(connection.laddr) and Path(str(connection.laddr)).absolute() == Path(settings.uds).absolute()
    if connection.status != psutil.CONN_LISTEN or connection.laddr.port != settings.port:
        return False
    wanted, found = _address(settings.host), _address(connection.laddr.ip)
    if wanted is None or found is None:
        return False
    return wanted == found or (wanted.is_loopback and (found.is_loopback or found.is_unspecified)) or wanted.is_unspecified


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of a host; None if its name is unknown."""
    host = host.strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    if host in ("", "localhost"):
        return ipaddress.ip_address("127.0.0.1")
    with contextlib.suppress(OSError, UnicodeError):
        return ipaddress.ip_address(socket.gethostbyname(host))
    return None
