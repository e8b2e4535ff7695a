"""Who may ask: the name that a request calls this server by, the web page that it comes from, and its key.

A server on localhost is reached by every web page that the user opens. Two things keep pages out: a page of another site
says so in `Origin` (or `Sec-Fetch-Site`), and one whose name was rebound to 127.0.0.1 calls us by that name in `Host`.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from edgeembed.errors import ForbiddenError, UnauthorizedError
from edgeembed.server.api_keys import Keys

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY_NAME = web.RequestKey("key_name", str)
"""Name of the key that a request carried."""
CHECKED: web.RequestKey[str | None] = web.RequestKey("checked", str)
"""What `Access.check` returned for this request."""
OPEN_PATHS = frozenset({"/health", "/livez", "/readyz", "/dashboard.css", "/dashboard.js"})
"""What a probe may ask without a key, and the page that asks for one; it tells nothing by itself."""
_EXPOSED = "X-Request-Id, X-Edgeembed-Cache, X-Edgeembed-Truncated, Retry-After"
_PREFLIGHT_SECONDS = "600"


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    keys: Keys = field(default_factory=Keys)
    check_host: bool = True
    """Refuse names that could be anybody's: needed wherever no key is asked for."""
    loopback_only: bool = True
    """The server listens on this machine alone: the addresses of its network are no names of it."""
    hosts: frozenset[str] = frozenset()
    """Names besides those of this machine, lower case."""
    origins: Sequence[str] = ()
    own_names: frozenset[str] = field(default_factory=lambda: frozenset({socket.gethostname().lower()}))

    def check(self, request: web.BaseRequest) -> str | None:
        """Give the origin that may read the answer, if the request comes from a web page of another origin.

        Raises ForbiddenError, UnauthorizedError.
        """
        if CHECKED in request:
            return request[CHECKED]
        host = _one(request, "Host")
        if self.check_host and not self._knows(host):
            raise ForbiddenError(
                f"the Host header {host[:100]!r} is no name of this server; use 127.0.0.1 or localhost, or add the name to "
                "allowed_hosts"
            )
        origin = self._origin(request, host)
        if self.keys and request.method != "OPTIONS" and not _is_open(request):
            name = self.keys.name_of(_secret(request))
            if name is None:
                raise UnauthorizedError("an API key is needed: Authorization: Bearer KEY")
            request[KEY_NAME] = name
        request[CHECKED] = origin
        return origin

    def _knows(self, host: str) -> bool:
        return _is_ours(host, self.hosts, self.own_names, self.loopback_only)

    def _origin(self, request: web.BaseRequest, host: str) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            # Requests that carry no Origin, such as those of an <img>, say where they come from in this one.
            if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _navigates(request):
                raise ForbiddenError("requests of other web sites are refused; add the site to allowed_origins")
            return None
        if origin == f"{request.scheme}://{host}":
            return None
        if any(fnmatch.fnmatchcase(origin.lower(), pattern.lower()) for pattern in self.origins):
            return origin
        raise ForbiddenError(
            f"web pages of {origin[:100]!r} may not use this server; add the origin to allowed_origins to let them"
        )


def middleware(access: Access) -> Middleware:
    """Make the middleware that lets through who may ask, and answers the preflights of allowed pages."""

    @web.middleware
    async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = access.check(request)
        if origin is None:
            return await handler(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response: web.StreamResponse = web.Response(status=204)
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            asked = request.headers.get("Access-Control-Request-Headers", "")
            response.headers["Access-Control-Allow-Headers"] = asked if asked.isascii() else ""
            response.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
        else:
            response = await handler(request)
        # This very origin and never "*"; the page may not send cookies, which nobody here reads.
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        response.headers.add("Vary", "Origin")
        return response

    return check_access


@functools.lru_cache(maxsize=256)  # nearly every request carries the same few names
def _is_ours(host: str, hosts: frozenset[str], own_names: frozenset[str], loopback_only: bool) -> bool:
    name = _hostname(host)
    if name is None:
        return False
    if name in hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return not loopback_only and name in own_names
    # An address cannot be rebound, but one of another machine is no name of a server that listens here alone.
    return address.is_loopback or not loopback_only


def _is_open(request: web.BaseRequest) -> bool:
    if request.path == "/":  # POST / is work
        return request.method in ("GET", "HEAD")
    return request.path in OPEN_PATHS


def _one(request: web.BaseRequest, name: str) -> str:
    """Give a header that must be there exactly once. Raises ForbiddenError."""
    values = request.headers.getall(name, [])
    if len(values) != 1 or not values[0].strip():
        raise ForbiddenError(f"a request needs one {name} header")
    return values[0].strip()


def _hostname(host: str) -> str | None:
    """Give the name in a Host header, lower case; None when it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or parts.hostname is None:
        return None
    return parts.hostname.rstrip(".")


def _navigates(request: web.BaseRequest) -> bool:
    """Say whether somebody follows a link, which shows a page and gives nothing to the site with the link."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"


def _secret(request: web.BaseRequest) -> str:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    return request.headers.get("api-key") or request.headers.get("x-api-key") or ""
