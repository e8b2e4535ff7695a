"""Limits on the number of connections, and on the time that one may stay open without a request."""

from __future__ import annotations

import asyncio

from aiohttp import web

from edgeembed.errors import TooManyConnectionsError
from edgeembed.server.aiohttp_internals import (
    Handle,
    count_connections,
    has_sent_head,
    next_idle,
    watch_connections,
    wrap_handler,
)
from edgeembed.server.app_keys import ACCESS
from edgeembed.server.auth import PROBES, let_page_read
from edgeembed.server.error_formats import error_format_of
from edgeembed.server.responses import error_response

KEEP_ALIVE_SECONDS = 75.0
"""How long a connection stays open after a response, unless the head of another request has arrived by then."""
HEAD_SECONDS = 30.0
"""The same for a new connection."""
MOST_CONNECTIONS = 2048
_OTHER_FILES = 256
"""File descriptors that the daemon needs beside connections."""
_FOR_PROBES = 16
"""Connections above the limit, for health checks."""


def most_connections() -> int:
    """Return the limit: what the process may open leaves room for other files."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(_OTHER_FILES, min(MOST_CONNECTIONS, soft - _OTHER_FILES))
    )


class ConnectionLimit:
    """Closes idle connections to make room for new ones, and refuses requests when all are in use."""

    def __init__(self, runner: web.AppRunner, most: int) -> None:
        """Watch a runner that is set up; call this before its first connection."""
        self._runner = runner
        self._most = most
        self._above: set[web.RequestHandler] = set()
        """Connections above the limit, on which only health checks are answered."""
        self._new: dict[web.RequestHandler, float] = {}
        """Connections that had no request at the last check, with the time at which each was opened, the oldest first."""
        self._checking: asyncio.TimerHandle | None = None
        watch_connections(runner, self._opened, self._closed)
        wrap_handler(runner, self._ahead_of)

    def _opened(self, connection: web.RequestHandler) -> None:
        loop = asyncio.get_running_loop()
        self._new[connection] = loop.time()
        if self._checking is None:
            self._checking = loop.call_later(HEAD_SECONDS, self._check_new)
        if count_connections(self._runner) <= self._most:
            return
        if (idle := next_idle(self._runner, besides=connection)) is not None:
            if idle in self._above:
                self._above.add(connection)
            idle.force_close()
        elif len(self._above) < _FOR_PROBES:
            self._above.add(connection)
        else:
            loop.call_soon(connection.force_close)

    def _closed(self, connection: web.RequestHandler) -> None:
        self._new.pop(connection, None)
        self._above.discard(connection)

    def _check_new(self) -> None:
        """Close connections on which no request arrived in time."""
        loop = asyncio.get_running_loop()
        for connection, opened in [*self._new.items()]:
            if opened + HEAD_SECONDS > loop.time():
                self._checking = loop.call_at(opened + HEAD_SECONDS, self._check_new)
                return
            del self._new[connection]
            if not has_sent_head(connection):
                connection.force_close()
        self._checking = None

    def _ahead_of(self, handler: Handle) -> Handle:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if self._above and request.protocol in self._above and request.path not in PROBES:
                error = TooManyConnectionsError(f"all {self._most:,} connections are in use", retry_after=1.0)
                response = error_response(error, error_format_of(request))
                let_page_read(self._runner.app[ACCESS], request, response)
                response.force_close()
                return response
            return await handler(request)

        return handle
