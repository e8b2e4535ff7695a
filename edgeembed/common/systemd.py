"""Telling systemd how the daemon is: READY=1, STOPPING=1, WATCHDOG=1.

Reference: sd_notify(3), sd_watchdog_enabled(3). A datagram to a Unix socket is all that there is to it; the packages for it
are unmaintained, under other licences, or need libsystemd to build.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from edgeembed.errors import EdgeEmbedError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How soon a daemon that was not well is looked at again, so that one bad moment does not end it."""


class Notifier:
    """The way to systemd; without one, nothing happens."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        environ = os.environ if environ is None else environ
        path = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of Linux' abstract names.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path if path.startswith("/") else None
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else None
        """How long systemd waits for WATCHDOG=1 before it ends the daemon; None: it does not watch."""

    def ready(self, status: str) -> None:
        """Say that requests are answered; `status` is what systemctl shows."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that the daemon is on its way out."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def alive(self) -> None:
        """Say that the daemon is well."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None or not hasattr(socket, "AF_UNIX"):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # Never wait: a supervisor that does not read must not hold up requests.
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("cannot tell systemd %s: %s", message.partition("\n")[0], error)


@contextlib.asynccontextmanager
async def watched(notifier: Notifier, check: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Tell systemd twice in its interval that all is well, for as long as `check` raises no error of ours in that time."""
    if notifier.watchdog_seconds is None:
        yield
        return
    beating = asyncio.create_task(_beat(notifier, check, notifier.watchdog_seconds / 2), name="watchdog")
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _beat(notifier: Notifier, check: Callable[[], Awaitable[None]], interval: float) -> None:
    while True:
        try:
            await asyncio.wait_for(check(), interval)
        except (EdgeEmbedError, TimeoutError) as error:
            log.warning("the watchdog is not told that all is well: %s", error or f"no row within {interval:g} s")
            await asyncio.sleep(min(RETRY_SECONDS, interval))
            continue
        notifier.alive()
        await asyncio.sleep(interval)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return None  # meant for another process, such as the one that started us
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
