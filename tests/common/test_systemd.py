"""Notifications to systemd, over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeembed.common.systemd import Notifier, watched
from edgeembed.errors import EngineUnavailableError
from tests.e2e.daemon import post, running
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.waiting import until, until_async

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd speaks over Unix sockets")


class Systemd:
    """The receiver of notifications."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(30)

    def hear(self) -> list[str]:
        """Wait for a message and return its lines."""
        return self._socket.recv(4096).decode().splitlines()

    def hear_all(self) -> list[list[str]]:
        """Return all messages received so far."""
        self._socket.setblocking(False)
        heard = []
        while True:
            try:
                heard.append(self.hear())
            except BlockingIOError:
                return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    other = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@edgeembed-test-{os.getpid()}")
    yield other
    other.close()


def test_ready_and_stopping(systemd: Systemd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    assert notifier.watchdog_seconds is None
    notifier.ready("a model on an address")
    assert systemd.hear() == ["READY=1", "STATUS=a model on an address"]
    notifier.stopping()
    assert systemd.hear()[0] == "STOPPING=1"


async def test_the_watchdog_is_notified_only_while_the_daemon_is_healthy(systemd: Systemd) -> None:
    well = True
    checks = 0

    async def check() -> None:
        nonlocal checks
        checks += 1
        if not well:
            raise EngineUnavailableError("hangs")

    async def checked(times: int) -> None:
        least = checks + times
        await until_async(lambda: checks >= least)

    notifier = Notifier({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_seconds == pytest.approx(0.1)
    async with watched(notifier, check):
        await checked(3)
        well = False
        await checked(1)
        assert ["WATCHDOG=1"] in systemd.hear_all()
        await checked(3)
        assert systemd.hear_all() == []
        well = True
        await checked(3)
        assert ["WATCHDOG=1"] in systemd.hear_all()


@pytest.mark.parametrize("steps", range(5))
async def test_a_daemon_that_stops_when_a_check_has_just_succeeded_stops(systemd: Systemd, steps: int) -> None:
    """It went on for ever: the cancellation was lost. steps: of the event loop between the two."""
    checking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    checks = 0

    async def check() -> None:
        nonlocal checks
        checks += 1
        await checking

    notifier = Notifier({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000000"})
    async with asyncio.timeout(20):
        async with watched(notifier, check):
            await until_async(lambda: checks)
            checking.set_result(None)
            for _ in range(steps):
                await asyncio.sleep(0)


def test_nothing_happens_without_systemd_or_after_it_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({}).ready("x")
    assert not caplog.records
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert "cannot notify systemd of READY=1" in caplog.text


def test_the_watchdog_of_another_process_is_ignored(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier(environ).watchdog_seconds is None
    assert Notifier({**environ, "WATCHDOG_PID": "", "WATCHDOG_USEC": "rubbish"}).watchdog_seconds is None


@pytest.mark.model
@pytest.mark.e2e
def test_a_daemon_notifies_when_it_is_ready_and_when_it_stops(home: Path, tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    flags = ("--model", str(make_tiny_qwen3(tmp_path / "model.gguf")))
    with running(*flags, home=home, ready=False, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="2000000") as daemon:
        assert systemd.hear()[0] == "READY=1"
        assert daemon.embed("x").shape == (1, 64)
        assert systemd.hear() == ["WATCHDOG=1"]
        # A restart keeps the process: systemd must not wait for its end, nor for WATCHDOG=1 meanwhile.
        assert post(daemon, "/v1/admin/restart")[0] == 200
        heard = until(lambda: (lines := systemd.hear()) != ["WATCHDOG=1"] and lines)
        assert heard[0] == "RELOADING=1" and heard[1].startswith("MONOTONIC_USEC=") and "WATCHDOG=1" in heard
        assert until(lambda: (lines := systemd.hear()) != ["WATCHDOG=1"] and lines)[0] == "READY=1"
        assert daemon.stop() == 0
    assert ["STOPPING=1", "STATUS=stopping"] in systemd.hear_all()
    systemd.close()
