"""The only place that logs requests: method, route, status, time, and the name of the key, nothing that a client wrote.

A path may contain a text or a key, and so may an unknown method: only routes and methods of this server are logged.
"""

from __future__ import annotations

import logging

from aiohttp import hdrs, web

from edgeembed.common.log_content import describe_error
from edgeembed.common.trace import traced
from edgeembed.server.aiohttp_internals import cannot_be_read
from edgeembed.server.auth import KEY_NAME, PROBES

log = logging.getLogger(__name__)

NO_ROUTE = "(no route)"
OTHER_METHOD = "(other method)"


def name_of(request: web.Request) -> str:
    """Return method and route of a request, such as "GET /v1/models/{name}"."""
    return f"{method_of(request)} {route_of(request) or NO_ROUTE}"


def method_of(request: web.Request) -> str:
    """Return the method of a request, if it is one of HTTP's."""
    return request.method if request.method in hdrs.METH_ALL else OTHER_METHOD


def route_of(request: web.Request) -> str | None:
    """Return the route of a request, such as "/v1/models/{name}", if it has one."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


@traced(within="answer")
def log_answer(request: web.Request, status: int, seconds: float) -> None:
    """Log an answered request: failures of this server as warnings, all others for --log-level debug."""
    level = logging.WARNING if status >= 500 and request.path not in PROBES else logging.DEBUG
    if log.isEnabledFor(level):
        log.log(level, "%s %d %.1f ms %s", name_of(request), status, 1000 * seconds, request.get(KEY_NAME, "-"))


def log_bug(request: web.Request) -> None:
    """Log the exception that is being handled, which no handler expects."""
    log.exception("unexpected error in %s", name_of(request))


class HttpLog:
    """What aiohttp's server logs: requests that it cannot parse, and its own bugs. It takes the place of aiohttp's logger,
    whose messages quote the request.
    """

    def debug(self, _message: str, *_args: object, **_more: object) -> None:
        """Log nothing: such as a port scan, or a client that disconnects."""

    def warning(self, _message: str, *_args: object, **_more: object) -> None:
        log.warning("aiohttp's server logged a warning")

    def exception(self, _message: str, *_args: object, exc_info: BaseException | None = None, **_more: object) -> None:
        """Log an error that happened outside our application: the client's, if the request cannot be parsed."""
        if exc_info is None:
            log.error("unexpected error in aiohttp's server")
        elif cannot_be_read(exc_info):
            log.info("a request cannot be read: %s", describe_error(exc_info))
        else:
            log.error("unexpected error in aiohttp's server", exc_info=exc_info)
