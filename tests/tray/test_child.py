"""The daemon that the tray starts, as a real process: its log, its exit, and when it is restarted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeembed.common.logs import LOG_BYTES
from edgeembed.common.program import command
from edgeembed.tray.child import MAX_QUICK_EXITS, STABLE_SECONDS, DaemonChild
from tests.waiting import until

TALKS = "import sys, time; print('first', file=sys.stderr); print('listens', file=sys.stderr, flush=True); time.sleep(60)"
FAILS = "import sys; sys.exit('bang')"  # status 1
REFUSES = "import sys; print('error: the port is in use', file=sys.stderr); sys.exit(2)"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Starter:
    """Starts Python code in place of a daemon."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.asked: list[Sequence[str]] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, arguments: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        self.asked.append(arguments)
        self.processes.append(subprocess.Popen([sys.executable, "-c", self.code], **how))
        return self.processes[-1]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], tuple[DaemonChild, Starter, Clock]]]:
    starters: list[Starter] = []

    def make(code: str) -> tuple[DaemonChild, Starter, Clock]:
        starter, clock = Starter(code), Clock()
        starters.append(starter)
        return DaemonChild(lambda: ["--port", "9"], tmp_path / "logs", start=starter, clock=clock), starter, clock

    yield make
    for starter in starters:
        for process in starter.processes:
            process.kill()
            process.wait()


def last_line(child: DaemonChild) -> str:
    return child.status.last_lines[-1] if child.status and child.status.last_lines else ""


def ended(child: DaemonChild) -> None:
    until(lambda: not child.running)
    child.check()


def test_output_goes_to_the_log_and_the_last_line_is_kept(make: Callable[..., Any]) -> None:
    child, starter, _ = make(TALKS)
    assert child.status is None
    child.start()
    child.start()
    assert starter.asked == [["serve", "--port", "9"]], "one daemon, however often it is started"
    until(lambda: last_line(child) == "listens")
    assert child.status.running and child.is_process(starter.processes[0].pid) and not child.is_process(os.getpid())
    child.stop(10)
    assert not child.running
    assert child.log_file.read_text().split() == ["first", "listens"]
    child.check()
    assert len(starter.asked) == 1, "a stopped daemon is not restarted"


def test_restarts_after_crashes_with_growing_delays(make: Callable[..., Any]) -> None:
    child, starter, clock = make(FAILS)
    child.start()
    delays = []
    for number in range(1, MAX_QUICK_EXITS):
        ended(child)
        assert child.status.last_lines[-1] == "bang" and not child.status.gave_up
        began = clock.now
        while len(starter.asked) == number:
            clock.now += 0.5
            child.check()
        delays.append(clock.now - began)
    assert delays == [1.0, 2.0, 4.0, 8.0]
    ended(child)
    assert child.status.gave_up
    clock.now += 1000
    child.check()
    assert len(starter.asked) == MAX_QUICK_EXITS
    child.start()
    assert len(starter.asked) == MAX_QUICK_EXITS + 1, "unless it is started explicitly"


def test_no_growing_delay_after_a_stable_run(make: Callable[..., Any]) -> None:
    child, starter, clock = make(FAILS)
    child.start()
    for number in range(1, 3 * MAX_QUICK_EXITS):
        clock.now += STABLE_SECONDS
        ended(child)
        clock.now += 1.0
        child.check()
        assert len(starter.asked) == number + 1


def test_a_daemon_with_bad_settings_is_not_restarted(make: Callable[..., Any]) -> None:
    child, starter, clock = make(REFUSES)
    child.start()
    ended(child)
    clock.now += 1000
    child.check()
    assert len(starter.asked) == 1
    assert child.status.gave_up and child.status.reason == "the port is in use"


def test_a_long_log_is_rotated(make: Callable[..., Any]) -> None:
    child, _, _ = make(FAILS)
    child.log_file.parent.mkdir(parents=True)
    child.log_file.write_bytes(b"x" * (LOG_BYTES + 1))
    child.start()
    ended(child)
    assert child.log_file.read_text().strip() == "bang"
    assert child.log_file.with_suffix(".log.1").stat().st_size == LOG_BYTES + 1


def test_an_unwritable_log_does_not_block_the_daemon(make: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    child, _, _ = make("import sys; sys.stderr.write('line\\n' * 100_000); sys.exit(2)")
    child.start()
    ended(child)
    assert child.status.gave_up and child.status.last_lines[-1] == "line"


def test_the_command_runs_this_installation() -> None:
    done = subprocess.run([*command("--version")], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("edgeembed, version ")
