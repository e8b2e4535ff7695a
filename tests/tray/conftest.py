"""A daemon on a fake engine, for the tests of the tray."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ports import free_port
from tests.tray.daemon import Daemon


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(port: int) -> Iterator[Daemon]:
    daemon = Daemon(port)
    yield daemon
    daemon.close()
