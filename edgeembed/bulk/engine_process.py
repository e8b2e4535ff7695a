"""The process of a shared engine: a daemon for the programs of one user on this machine, which ends when nobody uses it.

`edgeembed.bulk.shared_engine` starts it, and writes what it is to do to its standard input.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeembed.common.files import read_json, replacing
from edgeembed.common.logs import log_anyway, setup_logging
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.config.values import field_names
from edgeembed.errors import EdgeEmbedError

log = logging.getLogger(__name__)


class Order(msgspec.Struct, frozen=True):
    """What the process is to do. address: the file to write port and key to, where it listens on no Unix socket."""

    settings: Settings
    idle_seconds: float
    address: str = ""


class Address(msgspec.Struct, frozen=True):
    """The content of that file."""

    port: int
    key: str


def main() -> int:
    """Serve until nobody has used the model for a while; return the exit status."""
    gc.disable()  # until the daemon listens: nothing that is imported becomes garbage
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    setup_logging(order.settings.log_level)
    try:
        sockets, settings = _opened(order)
        from edgeembed.runtime import daemon

        resolved = Resolved(settings, dict.fromkeys(field_names(), "flag"), Paths.resolve())
        return daemon.run(resolved, sockets, log_anyway, order.idle_seconds)
    except EdgeEmbedError as error:
        log_anyway(f"error: {error.message}")
        return error.exit_code
    finally:
        _withdraw(order)
        logging.shutdown()


def _withdraw(order: Order) -> None:
    """Remove the file with the address, so that no program asks whoever listens at the port next.

    It stays if another engine has written its own address to it.
    """
    with contextlib.suppress(OSError, ValueError):
        written = read_json(Path(order.address), Address) if order.address else None
        if written is not None and written.key == order.settings.api_key:
            Path(order.address).unlink()


def _opened(order: Order) -> tuple[Sequence[socket.socket], Settings]:
    """Return sockets that listen on a port that the system chooses, and the settings with it; none for a Unix socket."""
    settings = order.settings
    if settings.uds:
        return (), settings
    opened = socket.create_server((settings.host, 0))
    port = opened.getsockname()[1]
    with replacing(Path(order.address), private=True) as staged:
        staged.write_bytes(msgspec.json.encode(Address(port, settings.api_key or "")))
    return [opened], msgspec.structs.replace(settings, port=port)


if __name__ == "__main__":
    os._exit(main())
