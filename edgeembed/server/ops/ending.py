"""GET /v1/admin/ending: waits, and answers with the reason when the daemon ends.

The dashboard keeps one such request open, so that it can say why the daemon is gone: nothing answers afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from edgeembed.common.status import EndingStatus
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

PATH = "/v1/admin/ending"
WAIT_SECONDS = 25.0
"""Proxies close connections that are silent for a minute, or half of it: then the page asks again."""
STOPPED = "it was told to stop, by a signal (Ctrl-C, SIGTERM) or a program"


class Ending:
    """The end of the daemon, for those who wait for it."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self.reason: str | None = None

    def begin(self, reason: str) -> None:
        """Answer those who wait. The first reason counts."""
        self.reason = self.reason or reason
        self._begun.set()

    async def wait(self, seconds: float) -> None:
        """Wait until it begins, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun.wait()


ENDING = web.AppKey("ending", Ending)


@routes.get(PATH)
async def wait(request: web.Request) -> web.Response:
    """Wait until the daemon ends, at most 25 seconds, and return why; null while it does not end."""
    ending, http = request.app[ENDING], request.app[METRICS].http
    http.in_flight -= 1  # a page that waits is no work
    try:
        await ending.wait(WAIT_SECONDS)
    finally:
        http.in_flight += 1
    return struct_response(EndingStatus(ending.reason))
