"""Access: the `Host` that a request names, the web page that it comes from, and its API key.

Every web page that the user opens can send requests to a server on localhost. Two checks keep pages out: `Origin` (or
`Sec-Fetch-Site`) shows that a page is of another site, and `Host` shows a name that was rebound to 127.0.0.1.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from edgeembed.config.settings import Settings
from edgeembed.errors import ForbiddenError, UnauthorizedError
from edgeembed.server.api_keys import Keys
from edgeembed.server.dashboard import SCRIPTS, STYLES

KEY_NAME = web.RequestKey("key_name", str)
"""The name of the request's API key."""
CHECKED = web.RequestKey("checked", bool)
"""Set on a request that `Access.check` let through already, and whose origin needs no headers."""
PROBES = frozenset({"/health", "/livez", "/readyz"})
"""Health checks. They are answered when all connections are in use, and a 503 is a valid answer."""
OPEN_PATHS = PROBES | {f"/{name}" for name in (*STYLES, *SCRIPTS, "recipes.json")}
"""Paths that need no key: probes, and the files of the dashboard, which hold no data."""
DESKTOP_APPS = (
    "app://obsidian.md",
    "vscode-webview://*",
    # Apps built with Tauri. On Windows they have one of the last two, which are names of this machine.
    "tauri://localhost",
    "http://tauri.localhost",
    "https://tauri.localhost",
)
"""Origins of desktop apps that are made of web pages. Except for `http://tauri.localhost`, no page in a browser has one."""
_PRIVATE_DOMAINS = (".internal", ".local", ".home.arpa")
"""Domains that nobody can register (ICANN 2024, RFC 6762, RFC 8375), such as that of host.docker.internal."""
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_PREFLIGHT_SECONDS = "600"
FETCH_SITE = istr("Sec-Fetch-Site")  # looked up faster than a str
_PLAIN_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:]*", re.ASCII)
_PLAIN_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.:_-]+", re.ASCII)
"""What a message may put into a command: a shell, and the patterns of `allowed_origins`, take it literally."""


@dataclass(eq=False)
class Access:
    """The rules for access. `keys`, `check_host` and `origins` may change while the server runs."""

    keys: Keys = field(default_factory=Keys)
    check_host: bool = True
    """Refuse a Host that is not a name of this server: needed wherever no key is required."""
    loopback_only: bool = True
    """The server listens on a loopback address only, so other names and addresses of the machine are not names of it."""
    hosts: frozenset[str] = frozenset()
    """Names in addition to those of this machine, lower case."""
    origins: Sequence[str] = ()
    """Patterns of the origins whose web pages may use the server."""
    own_names: frozenset[str] = field(default_factory=lambda: frozenset({socket.gethostname().lower()}))

    def check(self, request: web.BaseRequest) -> None:
        """Let a request pass. Raises ForbiddenError, UnauthorizedError."""
        host = _one(request, hdrs.HOST)
        if self.check_host and not (self.is_ours(host) or self._is_from_container(request, host)):
            raise ForbiddenError(_unknown_host(host))
        self._check_page(request, host)
        if not self.keys or _is_open(request):
            return
        # A browser sends preflight requests without the key; the middleware answers them itself.
        if _is_preflight(request) and self.allowed_page(request) is not None:
            return
        name = self.keys.name_of(_secret(request))
        if name is None:
            raise UnauthorizedError("missing or unknown API key; send the header Authorization: Bearer KEY")
        request[KEY_NAME] = name

    def is_ours(self, host: str) -> bool:
        """Return whether a Host is a name of this server that nobody can rebind."""
        return _is_ours(host, self.hosts, self.own_names, self.loopback_only)

    def allowed_page(self, request: web.BaseRequest) -> str | None:
        """Return the origin of the web page that a request comes from, if it is one of `origins`."""
        origin = request.headers.get(hdrs.ORIGIN)
        # Any page can have the origin "null", by a sandboxed frame.
        if origin is None or origin == "null":
            return None
        return origin if any(fnmatch.fnmatchcase(origin.lower(), pattern.lower()) for pattern in self.origins) else None

    def _is_from_container(self, request: web.BaseRequest, host: str) -> bool:
        """Return whether a program, not a page, calls the server by a private name; see `_is_private`."""
        # Browsers send the page's origin with every POST.
        return not self.loopback_only and _is_private(host) and hdrs.ORIGIN not in request.headers

    def _check_page(self, request: web.BaseRequest, host: str) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            # Requests without Origin, such as those of an <img>, have this header.
            if request.headers.get(FETCH_SITE) in ("cross-site", "same-site") and not _navigates(request):
                raise ForbiddenError(
                    "requests from other web sites that name no origin, such as those for an image, are refused; a page "
                    "whose origin is in allowed_origins can use fetch"
                )
        elif origin != f"{request.scheme}://{host}" and self.allowed_page(request) is None:
            raise ForbiddenError(_unknown_origin(origin))


def origins_of(settings: Settings) -> tuple[str, ...]:
    """Return the patterns of the origins that the settings allow."""
    return (*settings.allowed_origins, *(DESKTOP_APPS if settings.allow_desktop_apps else ()))


def middleware(access: Access) -> Middleware:
    """Return the middleware that checks access, and answers the preflight requests of allowed web pages."""

    @web.middleware
    async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
        if CHECKED not in request:
            access.check(request)
            if _is_preflight(request) and access.allowed_page(request) is not None:
                return _preflight(request)
        return await handler(request)

    return check_access


def let_page_read(access: Access, request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Set the headers with which a browser lets a page of an allowed origin read a response, be it an error or not."""
    if hdrs.ORIGIN not in request.headers or (origin := access.allowed_page(request)) is None:
        return
    headers = response.headers
    exposed = ", ".join(sorted(set(headers)))
    # The origin itself, never "*"; cookies are not allowed, as none are used.
    headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = exposed
    headers.add(hdrs.VARY, "Origin")


def _preflight(request: web.Request) -> web.Response:
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    response = web.Response(status=204)
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = _METHODS
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked if asked.isascii() else ""
    response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = _PREFLIGHT_SECONDS
    # Chromium asks so for pages of public sites. What replaces it, Local Network Access, asks the user instead.
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        response.headers["Access-Control-Allow-Private-Network"] = "true"
    return response


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


@functools.lru_cache(maxsize=256)
def _is_private(host: str) -> bool:
    """Return whether no site on the internet can have a name: the names of containers, of compose services, of a LAN.

    Only who answers the network's DNS queries can rebind such a name.
    """
    name = _hostname(host) or "."
    return "." not in name or name.endswith(_PRIVATE_DOMAINS)


def _unknown_host(host: str) -> str:
    name = _hostname(host) or ""
    known = name if _PLAIN_NAME.fullmatch(name) else "NAME"
    return (
        f"the Host header {host[:100]!r} is not a name of this server; use 127.0.0.1 or localhost, or allow the name: "
        f"`edgeembed config add allowed_hosts {known}`, or one more flag `--allowed-hosts {known}`, then restart"
    )


def _unknown_origin(origin: str) -> str:
    if origin == "null":
        return "web pages without an origin, such as local files and sandboxed frames, may not use this server"
    if any(fnmatch.fnmatchcase(origin.lower(), pattern) for pattern in DESKTOP_APPS):
        return (
            f"{origin[:100]!r} is the origin of a desktop app, and allow_desktop_apps is off; to allow it: "
            "`edgeembed config set allow_desktop_apps true`, then restart"
        )
    known = origin.lower() if _PLAIN_ORIGIN.fullmatch(origin.lower()) else "ORIGIN"
    return (
        f"web pages of {origin[:100]!r} may not use this server; to allow them: `edgeembed config add allowed_origins "
        f"{known}`, or one more flag `--allowed-origins {known}`, then restart"
    )


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
