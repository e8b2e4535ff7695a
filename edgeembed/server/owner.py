"""Who may change the server and what is installed on its machine: its owner, not everybody who may embed.

The owner is who has an API key or, where none is set, a program of this machine; and the daemon's own dashboard, in a
browser of either. A page of any other origin never is, not even one of `allowed_origins`: whoever wrote it could otherwise
administer through the browser of whoever opens it.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from edgeembed.errors import ForbiddenError, UnauthorizedError
from edgeembed.server.app_keys import ACCESS
from edgeembed.server.auth import FETCH_SITE, KEY_NAME, Access

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers that proxies add."""
_OWN_SITES = ("same-origin", "none")
"""What browsers send as Sec-Fetch-Site for requests of our own page, and for an address that the user typed."""
_SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
"""What a browser sends anywhere without asking first: bodies of forms. Our page sends JSON."""


def owned(handler: Handler) -> Handler:
    """Return a handler that refuses everybody but the owner, before anything else of the request is read.

    It lets our own page through: it is that of a route under /v1/admin.
    """

    @functools.wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        require_owner(request, own_page=True)
        return await handler(request)

    return handle


def require_owner(request: web.Request, *, own_page: bool = False) -> None:
    """Raise ForbiddenError unless the client has an API key or, if none are set, is a program on this machine.

    A web page is refused in either case. own_page: except for the daemon's own. Raises UnauthorizedError for a missing key.
    """
    access = request.app[ACCESS]
    _check_page(request, own_page)
    if access.keys:
        if KEY_NAME not in request:  # `Access.check` has refused it already, as long as it sees every route
            raise UnauthorizedError("missing or unknown API key; send the header Authorization: Bearer KEY")
        return
    if not is_here(request):
        raise ForbiddenError("only programs on this machine may administer a server without API keys")
    _check_name(request, access)


def may_change_machine(request: web.Request) -> bool:
    """Return whether an owner is a program or page of this machine, and surely that of the user who runs the daemon.

    Without a key, every user of the machine may connect to its port, but only this one to a Unix socket.
    """
    return is_here(request) and (bool(request.app[ACCESS].keys) or not request.remote)


def is_here(request: web.Request) -> bool:
    """Return whether a request comes from this machine, and not through a proxy, as far as that shows."""
    # Behind a proxy, all requests seem to come from this machine.
    return _is_local(request.remote) and not any(name in request.headers for name in _FORWARDED)


def _check_page(request: web.Request, own_page: bool) -> None:
    """Raise ForbiddenError for a request of a web page, unless it is our own and may."""
    origins = request.headers.getall(hdrs.ORIGIN, [])
    own = f"{request.scheme}://{request.host}" if own_page else None
    if any(origin != own for origin in origins) or request.headers.get(FETCH_SITE, "none") not in _OWN_SITES:
        # not even a page of allowed_origins
        raise ForbiddenError("web pages other than the server's own dashboard may not administer this server")
    if origins and request.content_type in _SIMPLE_TYPES:
        raise ForbiddenError("a page administers with JSON; forms are refused")


def _check_name(request: web.Request, access: Access) -> None:
    """Raise ForbiddenError for a name that somebody could have rebound to this machine.

    GET requests of a page have no Origin, and over HTTP nothing else that shows that a page sent them. So the names of
    containers, which programs may embed by, do not administer.
    """
    if not access.is_ours(request.host):
        raise ForbiddenError("this server is administered by a name of this machine, such as 127.0.0.1 or localhost")


def _is_local(remote: str | None) -> bool:
    if not remote:
        return True  # a Unix socket
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
