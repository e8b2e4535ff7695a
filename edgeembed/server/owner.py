"""Who may change the server and what is installed on its machine: its owner, not everybody who may embed."""

from __future__ import annotations

import ipaddress

from aiohttp import hdrs, web

from edgeembed.errors import ForbiddenError
from edgeembed.server.app_keys import ACCESS

_FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers that proxies add."""


def require_owner(request: web.Request) -> None:
    """Raise ForbiddenError unless the client has an API key or, if none are set, is a program on this machine."""
    if hdrs.ORIGIN in request.headers:
        raise ForbiddenError("web pages may not administer this server")  # not even those of allowed_origins
    if request.app[ACCESS].keys:
        return
    # Behind a proxy, all requests seem to come from this machine.
    if any(name in request.headers for name in _FORWARDED) or not _is_local(request.remote):
        raise ForbiddenError("only programs on this machine may administer a server without API keys")


def _is_local(remote: str | None) -> bool:
    if not remote:
        return True  # a Unix socket
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
