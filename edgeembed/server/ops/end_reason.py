"""GET /v1/status/ending: why the daemon ends; with `?wait=SECONDS`, waits for it.

The dashboard keeps one such request open, so that it can say why the daemon is gone: nothing answers afterwards.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from edgeembed.common.status import EndingStatus
from edgeembed.errors import RequestError
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

PATH = "/v1/status/ending"
MOST_SECONDS = 25.0
"""Proxies close connections that are silent for a minute, or half of it: then the page asks again."""
SHUT_DOWN = "a program asked it over HTTP to shut down"
RESTARTS = "it starts anew, as asked over HTTP"
STOPPED = "it was told to stop, by a signal (Ctrl-C, SIGTERM)"


class EndReason:
    """Why the daemon ends, for those who wait for it."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self.reason: str | None = None
        self.waiting = 0
        """Requests that wait for it."""

    def begin(self, reason: str) -> None:
        """Answer those who wait. The first reason counts."""
        self.reason = self.reason or reason
        self._begun.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it begins, at most so long."""
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._begun.wait()
        except TimeoutError:
            return
        finally:
            self.waiting -= 1


END_REASON = web.AppKey("end_reason", EndReason)


@routes.get(PATH)
async def wait(request: web.Request) -> web.Response:
    """Return why the daemon ends; null while it does not. With `?wait=SECONDS` (at most 25), wait so long for the end."""
    ending, http = request.app[END_REASON], request.app[METRICS].http
    seconds = _seconds(request.query.get("wait", "0"))
    http.in_flight -= 1  # a page that waits is no work
    try:
        await ending.wait(seconds)
    finally:
        http.in_flight += 1
    return struct_response(EndingStatus(ending.reason, ending.reason == RESTARTS))


def _seconds(given: str) -> float:
    """Return a number of seconds. Raises RequestError."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MOST_SECONDS:
        raise RequestError(f"wait: expected a number of seconds from 0 to {MOST_SECONDS:g}", param="wait")
    return seconds
