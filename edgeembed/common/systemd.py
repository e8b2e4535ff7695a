"""Notifications to systemd: READY=1, STOPPING=1, WATCHDOG=1.

Reference: sd_notify(3), sd_watchdog_enabled(3). They are datagrams to a Unix socket. The packages for it are
unmaintained, have other licences, or need libsystemd to build.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from edgeembed.errors import EdgeEmbedError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Pause after a failed health check, so that a single failure does not end the daemon."""


class Notifier:
    """Sends notifications to systemd; does nothing without it."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        environ = os.environ if environ is None else environ
        path = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract socket name on Linux.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path if path.startswith("/") else None
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else None
        """How long systemd waits for WATCHDOG=1 before it kills the daemon; None: the watchdog is off."""

    def ready(self, status: str) -> None:
        """Notify that requests are served; `status` is shown by systemctl."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Notify that the daemon is stopping."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def restarting(self) -> None:
        """Notify that the same process starts anew, and will be ready again.

        Not STOPPING=1, after which systemd waits for the process to end, and kills it.
        """
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=restarting\nWATCHDOG=1")

    def alive(self) -> None:
        """Notify that the daemon is healthy."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None or not hasattr(socket, "AF_UNIX"):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # Never block: a supervisor that does not read must not delay requests.
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("cannot notify systemd of %s: %s", message.partition("\n")[0], error)


@contextlib.asynccontextmanager
async def watched(notifier: Notifier, check: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Notify systemd twice per watchdog interval while `check` succeeds in time, that is, raises no EdgeEmbedError."""
    if notifier.watchdog_seconds is None:
        yield
        return
    watchdog = asyncio.create_task(_notify(notifier, check, notifier.watchdog_seconds / 2), name="watchdog")
    try:
        yield
    finally:
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)


async def _notify(notifier: Notifier, check: Callable[[], Awaitable[None]], interval: float) -> None:
    while True:
        try:
            async with asyncio.timeout(interval):
                await check()
        except (EdgeEmbedError, TimeoutError) as error:
            log.warning("health check failed, so the watchdog is not notified: %s", error or f"no row within {interval:g} s")
            await asyncio.sleep(min(RETRY_SECONDS, interval))
            continue
        notifier.alive()
        await asyncio.sleep(interval)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return None  # for another process, such as our parent
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
