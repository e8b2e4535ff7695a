"""The addresses that the daemon listens on: whether it can and may, and its API keys and certificate."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from typing import Any

from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError
from edgeembed.server.api_keys import Keys

LOCALHOST = "localhost"
"""The setting `host` for both addresses of this machine, as clients take the name for one or the other: Node's for ::1."""
BACKLOG = 128
"""Connections that may wait to be accepted, as aiohttp has it."""
_PROBED = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}
"""Addresses in other networks, by the address that means all of this machine's (RFC 5737, RFC 3849)."""


def addresses(settings: Settings) -> list[str]:
    """Return the addresses to listen on: one, or both of `LOCALHOST` where the system has IPv6."""
    if settings.host != LOCALHOST:
        return [settings.host]
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "::1"]


def network_address(host: str) -> str | None:
    """Return the address at which other machines reach a daemon that listens on all; None if it does not, or has none."""
    if host not in _PROBED:
        return None
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((_PROBED[host], 9))  # sends nothing, but chooses the interface
            found: str = probe.getsockname()[0]
    except OSError:
        return None
    return None if _is_loopback(found) else found


def open_sockets(settings: Settings) -> list[socket.socket]:
    """Return sockets that listen on the addresses; none for a Unix socket, and where the system chooses the port.

    Called first of all: clients that connect from now on wait until the daemon answers, instead of being refused.
    Raises ConfigError if the daemon cannot or must not listen there.
    """
    read_keys(settings)
    make_tls(settings)
    if settings.uds:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError("uds: this system has no Unix sockets")
        return []
    return _open(settings, settings.port) if settings.port else []


def check_address(settings: Settings, now: Settings) -> None:
    """Raise ConfigError if a daemon that listens as `now` says could not listen as `settings` say after a restart."""
    if settings.uds or (settings.host, settings.port) == (now.host, now.port):
        return
    # Its own sockets hold the port.
    for each in _open(settings, 0 if settings.port == now.port else settings.port):
        each.close()


def _open(settings: Settings, port: int) -> list[socket.socket]:
    """Return sockets that listen on a port of all addresses. Raises ConfigError."""
    opened: list[socket.socket] = []
    for host in addresses(settings):
        try:
            for family, kind, protocol, _, address in sorted(
                {*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)}
            ):
                opened.append(_open_socket(family, kind, protocol, address))
        except OSError as error:
            for each in opened:
                each.close()
            raise cannot_listen(settings, host, error) from error
    return opened


def _open_socket(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    """Return a socket that listens, with the options that asyncio sets. Raises OSError."""
    opened = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def read_keys(settings: Settings) -> Keys:
    """Return the API keys. Raises ConfigError if other machines can reach the address and there are no keys."""
    keys = Keys.read(settings.api_key, settings.api_key_file)
    if not (keys or settings.no_auth or is_local(settings)):
        raise ConfigError(
            f"other machines can reach {settings.host}, and no API key is set. Listen on 127.0.0.1, set EDGEEMBED_API_KEY "
            "or --api-key-file, or use --no-auth if you trust everybody on the network"
        )
    return keys


def is_local(settings: Settings) -> bool:
    """Return whether only this machine can reach the address."""
    return bool(settings.uds) or _is_loopback(settings.host)


def make_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of the certificate; None without one. Raises ConfigError."""
    if settings.certfile is None:
        if settings.keyfile is not None:
            raise ConfigError("keyfile is set without certfile")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use certfile {settings.certfile} (keyfile {settings.keyfile}): {error}") from error
    return context


def cannot_listen(settings: Settings, host: str, error: OSError) -> ConfigError:
    """Return the error for an address that the system refuses, with what to do. host: the one of `addresses`."""
    if settings.uds:
        return ConfigError(f"cannot listen on {settings.uds}: {error.strerror or error}")
    where = f"[{host}]:{settings.port}" if ":" in host.strip("[]") else f"{host}:{settings.port}"
    if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)):
        other = ", or listen on 127.0.0.1 only, with --host 127.0.0.1" if host != settings.host and ":" in host else ""
        return ConfigError(
            f"{where} is in use, by another edgeembed (see http://{where}/health) or another program. Choose another port "
            f"with --port, EDGEEMBED_PORT or `edgeembed config set port N`{other}"
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"this user may not listen on {where}; choose a port from 1024 up")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}")


def _is_loopback(host: str) -> bool:
    if host == LOCALHOST:
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False
