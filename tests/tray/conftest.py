"""A daemon on a fake engine, for the tests of the tray."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.tray.daemon import Daemon


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def daemon(port: int) -> Iterator[Daemon]:
    daemon = Daemon(port)
    yield daemon
    daemon.close()
