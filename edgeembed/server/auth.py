"""Access: the `Host` that a request names, the web page that it comes from, and its API key.

Every web page that the user opens can send requests to a server on localhost. Two checks keep pages out: `Origin` (or
`Sec-Fetch-Site`) shows that a page is of another site, and `Host` shows a name that was rebound to 127.0.0.1.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from edgeembed.errors import ForbiddenError, UnauthorizedError
from edgeembed.server.api_keys import Keys

KEY_NAME = web.RequestKey("key_name", str)
"""The name of the request's API key."""
CHECKED = web.RequestKey("checked", bool)
"""Set on a request that `Access.check` let through already, and whose origin needs no headers."""
PROBES = frozenset({"/health", "/livez", "/readyz"})
"""Health checks. They are answered when all connections are in use, and a 503 is a valid answer."""
OPEN_PATHS = PROBES | {"/dashboard.css", "/dashboard.js"}
"""Paths that need no key: probes, and the files of the dashboard, which hold no data."""
_EXPOSED = "X-Request-Id, X-Edgeembed-Cache, X-Edgeembed-Digest, X-Edgeembed-Truncated, Retry-After"
_PREFLIGHT_SECONDS = "600"


@dataclass(frozen=True)
class Access:
    """The rules for access."""

    keys: Keys = field(default_factory=Keys)
    check_host: bool = True
    """Refuse a Host that is not a name of this server: needed wherever no key is required."""
    loopback_only: bool = True
    """The server listens on a loopback address only, so the machine's network addresses are not names of it."""
    hosts: frozenset[str] = frozenset()
    """Names in addition to those of this machine, lower case."""
    origins: Sequence[str] = ()
    own_names: frozenset[str] = field(default_factory=lambda: frozenset({socket.gethostname().lower()}))

    def check(self, request: web.BaseRequest) -> str | None:
        """Return the origin of the web page that a request comes from, if it is another origin that is allowed.

        Raises ForbiddenError, UnauthorizedError.
        """
        host = _one(request, "Host")
        if self.check_host and not self._knows(host):
            raise ForbiddenError(
                f"the Host header {host[:100]!r} is not a name of this server; use 127.0.0.1 or localhost, or add the name "
                "to allowed_hosts"
            )
        origin = self._origin(request, host)
        # A browser sends preflight requests without the key; the middleware answers them itself.
        if self.keys and not (origin is not None and _is_preflight(request)) and not _is_open(request):
            name = self.keys.name_of(_secret(request))
            if name is None:
                raise UnauthorizedError("missing or unknown API key; send the header Authorization: Bearer KEY")
            request[KEY_NAME] = name
        return origin

    def _knows(self, host: str) -> bool:
        return _is_ours(host, self.hosts, self.own_names, self.loopback_only)

    def _origin(self, request: web.BaseRequest, host: str) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            # Requests without Origin, such as those of an <img>, have this header.
            if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not _navigates(request):
                raise ForbiddenError("requests from other web sites are refused; add the site to allowed_origins")
            return None
        if origin == f"{request.scheme}://{host}":
            return None
        if any(fnmatch.fnmatchcase(origin.lower(), pattern.lower()) for pattern in self.origins):
            return origin
        raise ForbiddenError(
            f"web pages of {origin[:100]!r} may not use this server; to allow them, add the origin to allowed_origins"
        )


def middleware(access: Access) -> Middleware:
    """Return the middleware that checks access, and answers the preflight requests of allowed web pages."""

    @web.middleware
    async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = None if CHECKED in request else access.check(request)
        if origin is None:
            return await handler(request)
        if _is_preflight(request):
            response: web.StreamResponse = web.Response(status=204)
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            asked = request.headers.get("Access-Control-Request-Headers", "")
            response.headers["Access-Control-Allow-Headers"] = asked if asked.isascii() else ""
            response.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
        else:
            response = await handler(request)
        # The origin itself, never "*"; cookies are not allowed, as none are used.
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        response.headers.add("Vary", "Origin")
        return response

    return check_access


@functools.lru_cache(maxsize=256)  # nearly all requests have the same few names
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
    # Addresses cannot be rebound, but only loopback ones are names of a server that listens on loopback.
    return address.is_loopback or not loopback_only


def _is_open(request: web.BaseRequest) -> bool:
    if request.path == "/":  # POST / embeds
        return request.method in ("GET", "HEAD")
    return request.path in OPEN_PATHS


def _is_preflight(request: web.BaseRequest) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _one(request: web.BaseRequest, name: str) -> str:
    """Return a header that must be there exactly once. Raises ForbiddenError."""
    values = request.headers.getall(name, [])
    if len(values) != 1 or not values[0].strip():
        raise ForbiddenError(f"expected exactly one {name} header")
    return values[0].strip()


def _hostname(host: str) -> str | None:
    """Return the name in a Host header, lower case; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or parts.hostname is None:
        return None
    return parts.hostname.rstrip(".")


def _navigates(request: web.BaseRequest) -> bool:
    """Return whether the user follows a link, which shows a page and tells the site with the link nothing."""
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"


def _secret(request: web.BaseRequest) -> str:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    return request.headers.get("api-key") or request.headers.get("x-api-key") or ""
