"""Downloads of the owner: followed by the server, paused, remembered; with a script in place of `edgeembed pull`."""

from __future__ import annotations

import os
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from edgeembed.common.pull_lines import PullLine
from edgeembed.config.settings import Settings
from edgeembed.errors import ModelNotFoundError
from edgeembed.server import owned_pulls, pulls
from edgeembed.server.owned_pulls import FORGET_SECONDS, OwnedPulls
from edgeembed.server.pulls import Pulls
from tests.server.pull_script import WAITS
from tests.waiting import until_async

posix = pytest.mark.skipif(os.name != "posix", reason="a process of Windows cannot be interrupted")


class Machine:
    """Pulls that run `WAITS`, and what is installed."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "log"
        self.log.touch()
        self.state = tmp_path / "state"
        self.installed = 0
        self.now = 0.0
        self.pulls = Pulls(Settings())
        self.owned = self.start_daemon()

    def start_daemon(self) -> OwnedPulls:
        async def installed() -> None:
            self.installed += 1

        return OwnedPulls(self.pulls, self.state, installed=installed, clock=lambda: self.now)

    def state_of(self, spec: str = "tiny") -> str:
        return next((each.state for each in self.owned.describe() if each.spec == spec), "none")

    async def running(self) -> None:
        await until_async(lambda: self.state_of() == "running")

    def go_on(self) -> None:
        self.log.with_name("go on").touch()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(pulls, "command", lambda *_: [sys.executable, "-c", WAITS, str(machine.log)])
    return machine


async def test_nobody_needs_to_follow(machine: Machine) -> None:
    assert (await machine.owned.start("tiny")).state == "waiting"
    await machine.running()
    again = await machine.owned.start("TINY")
    assert (again.state, again.done_bytes, again.total_bytes) == ("running", 1, 2), "one that runs is joined"
    machine.go_on()
    await until_async(lambda: machine.state_of() == "done")
    assert machine.log.read_text() == "started\n" and machine.installed == 1
    (done,) = machine.owned.describe()
    assert done.installed == "tiny:F32"
    machine.now += FORGET_SECONDS + 1
    assert machine.owned.describe() == ()


@posix
async def test_a_paused_pull_ends_its_process_and_goes_on_later(machine: Machine) -> None:
    await machine.owned.start("tiny")
    await machine.running()
    paused = await machine.owned.pause("Tiny")
    assert (paused.state, paused.done_bytes, paused.bytes_per_second) == ("paused", 1, None)
    assert machine.log.read_text() == "started\ninterrupted\n", "its process has ended when the answer comes"
    machine.go_on()
    await machine.owned.start("tiny")
    await until_async(lambda: machine.state_of() == "done")
    assert (await machine.owned.pause("tiny")).state == "done", "what is over stays so"


@posix
async def test_a_pull_that_a_client_follows_too_goes_on_for_the_client(machine: Machine) -> None:
    await machine.owned.start("tiny")
    async with aclosing(machine.pulls.follow("tiny")) as lines:
        assert (await anext(lines)).what in ("tiny", "")
        await machine.running()
        assert (await machine.owned.pause("tiny")).state == "paused"
        assert machine.log.read_text() == "started\n"
        machine.go_on()
        assert [line async for line in lines][-1] == PullLine(installed="tiny:F32")


@posix
async def test_what_was_not_over_is_paused_after_a_restart(machine: Machine) -> None:
    await machine.owned.start("tiny")
    await machine.running()
    await machine.owned.close()
    await machine.pulls.close()
    assert machine.log.read_text() == "started\ninterrupted\n"
    machine.owned = machine.start_daemon()
    (left,) = machine.owned.describe()
    assert (left.spec, left.state, left.done_bytes, left.total_bytes, left.error) == ("tiny", "paused", 1, 2, None)
    assert (await machine.owned.cancel("tiny")).spec == "tiny"
    assert machine.owned.describe() == () == machine.start_daemon().describe()


async def test_a_pull_is_remembered_while_it_runs_as_the_daemon_may_be_killed(machine: Machine) -> None:
    await machine.owned.start("tiny")
    (left,) = machine.start_daemon().describe()
    assert (left.spec, left.state) == ("tiny", "paused")
    await machine.owned.close()
    await machine.pulls.close()


@pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"spec": 1}]', b"\xff", b"{}"])
async def test_a_damaged_file_of_pulls_is_ignored(machine: Machine, content: bytes) -> None:
    machine.state.mkdir()
    (machine.state / owned_pulls.FILE).write_bytes(content)
    assert machine.start_daemon().describe() == ()


async def test_unknown_pulls_are_neither_paused_nor_cancelled(machine: Machine) -> None:
    for action in (machine.owned.pause, machine.owned.cancel):
        with pytest.raises(ModelNotFoundError):
            await action("tiny")


def test_the_speed_is_that_of_the_last_seconds() -> None:
    pull = owned_pulls._Owned("tiny")
    for second in range(10):
        pull.put(PullLine(what="file", done=second * (100 if second < 5 else 200), total=2000), float(second))
    assert pull.speed(9.0) == pytest.approx((9 * 200 - 4 * 100) / 5)
    pull.put(PullLine(what="another file", done=0, total=10), 10.0)
    assert pull.speed(10.0) is None, "of other work nothing is known yet"
    pull.put(PullLine(message="waiting for other pulls", waits=True), 11.0)
    assert pull.describe(11.0).state == "waiting"
