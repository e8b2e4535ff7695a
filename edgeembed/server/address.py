"""The address that the daemon listens on: whether it can and may, and its API keys and certificate."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl

from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError
from edgeembed.server.api_keys import Keys


def check_address(settings: Settings) -> None:
    """Raise ConfigError if the daemon cannot or must not listen on the address. Called before models are downloaded."""
    read_keys(settings)
    make_tls(settings)
    if settings.uds:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError("uds: this system has no Unix sockets")
        return
    if settings.port == 0:
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise cannot_listen(settings, error) from error


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


def cannot_listen(settings: Settings, error: OSError) -> ConfigError:
    """Return the error for an address that the system refuses, with what to do."""
    if settings.uds:
        return ConfigError(f"cannot listen on {settings.uds}: {error.strerror or error}")
    where = f"[{settings.host}]:{settings.port}" if ":" in settings.host.strip("[]") else f"{settings.host}:{settings.port}"
    if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)):
        return ConfigError(
            f"{where} is in use, by another edgeembed (see http://{where}/health) or another program. Choose another port "
            "with --port, EDGEEMBED_PORT or `edgeembed config set port N`"
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"this user may not listen on {where}; choose a port from 1024 up")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False
