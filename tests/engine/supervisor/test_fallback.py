"""Demotion and promotion with graphics cards: down for every cause without losing a text, and up again when it is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeembed.engine.execution_modes import CPU_MODES, GPU_FULL, GPU_PARTIAL, ExecutionMode, ModeUnavailableError
from edgeembed.engine.interface import BULK
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory, FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine, WorkerTimeouts
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import RequestError
from tests.engine.supervisor import scripted_worker, supervised
from tests.engine.supervisor.supervised import rows_are_right

pytestmark = pytest.mark.e2e

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals end the scripted workers; Windows has none")

ROOT = Path(__file__).parents[3]
MODES = (GPU_FULL, GPU_PARTIAL, *CPU_MODES)
DIGEST = "5" * 64


# --- the policy alone -------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def policy(clock: Clock, memory: FallbackMemory | None = None) -> FallbackPolicy:
    return FallbackPolicy(MODES, memory, cool_down=60, clock=clock)


def test_the_cool_down_of_a_card_doubles_each_time_it_fails() -> None:
    clock = Clock()
    made = policy(clock)
    made.demote("CUDA error: out of memory", cause="out_of_memory", temporary=False)
    assert made.mode is GPU_PARTIAL and made.due() is None
    for wait in (60, 120, 240):
        clock.now += wait - 1
        assert made.due() is None
        clock.now += 1
        assert made.due() is GPU_FULL
        made.stay(GPU_FULL, "CUDA error: out of memory", cause="out_of_memory")
        assert made.mode is GPU_PARTIAL and [demotion.mode for demotion in made.demotions] == ["gpu-full"]
    for _ in range(20):
        made.stay(GPU_FULL, "still none", cause="other")
    assert (made.demotions[0].again_at or 0) - clock.now == 3600, "with an upper limit"


def test_a_promotion_may_skip_modes_that_are_not_due() -> None:
    clock = Clock()
    made = policy(clock)
    made.demote("device lost", cause="device_lost", temporary=True)  # gpu-full, due after 60 s
    clock.now += 30
    made.demote("SIGSEGV", cause="crash", temporary=True)  # gpu-partial, due after 90 s
    assert made.mode is CPU_MODES[0]
    clock.now += 30
    assert made.due() is GPU_FULL
    made.stay(GPU_FULL, "device lost", cause="device_lost")
    assert made.due() is None
    clock.now += 30
    assert made.due() is GPU_PARTIAL
    made.promote(GPU_PARTIAL)
    assert made.mode is GPU_PARTIAL and [demotion.mode for demotion in made.demotions] == ["gpu-full"]


def test_a_promotion_ends_demotions_with_a_cool_down_from_slower_modes_too() -> None:
    clock = Clock()
    made = policy(clock)
    made.demote("device lost", cause="device_lost", temporary=True)
    made.demote("no driver", cause="no_driver", temporary=False)  # gpu-partial
    made.demote("SIGILL", cause="crash", temporary=False)  # cpu
    clock.now += 60
    made.promote(GPU_FULL)
    assert made.mode is GPU_FULL
    assert [demotion.mode for demotion in made.demotions] == ["cpu"]


def test_a_cpu_mode_that_failed_while_loading_is_not_tried_again() -> None:
    clock = Clock()
    made = FallbackPolicy(CPU_MODES, clock=clock)
    made.demote("SIGILL", cause="crash", temporary=False)
    clock.now += 1e6
    assert made.due() is None
    assert made.demotions[0].again_at is None


def test_mode_changes_are_kept_with_their_causes() -> None:
    clock = Clock()
    made = policy(clock)
    made.demote("CUDA error: out of memory", cause="out_of_memory", temporary=True)
    made.demote("a row that is not finite", cause="wrong_vectors", temporary=True)
    clock.now += 60
    made.promote(GPU_FULL)
    assert [(move.source, move.target, move.cause) for move in made.mode_changes] == [
        ("gpu-full", "gpu-partial", "out_of_memory"),
        ("gpu-partial", "cpu", "wrong_vectors"),
        ("cpu", "gpu-full", "recovered"),
    ]
    assert made.mode_changes_by_cause["gpu-full>gpu-partial>out_of_memory"] == 1


def test_the_next_start_avoids_a_card_until_its_cool_down_is_over(tmp_path: Path) -> None:
    clock = Clock()
    memory = FallbackMemory(tmp_path / "execution-modes.json", DIGEST)
    made = policy(clock, memory)
    made.demote("no answer for 300 s", cause="hang", temporary=False)
    made.remember()
    clock.now += 59
    assert policy(clock, memory).mode is GPU_PARTIAL
    clock.now += 1
    assert policy(clock, memory).mode is GPU_FULL
    clock.now -= 1e6  # a clock that was set back does not prolong the cool-down
    assert policy(clock, memory).mode is GPU_FULL


# --- with workers that misbehave --------------------------------------------------------------------------------------


def options(mode: ExecutionMode) -> WorkerOptions:
    return WorkerOptions(
        path="none", threads=1, context_tokens=20, batch_tokens=64, mode=mode.name, extra_buffers=mode.extra_buffers,
        gpu_layers=0 if mode.gpu == "none" else 5, device="cpu" if mode.gpu == "none" else "CUDA0",
    )  # fmt: skip


@asynccontextmanager
async def engine(
    script: str, modes: tuple[ExecutionMode, ...] = (GPU_FULL, CPU_MODES[0]), **more: Any
) -> AsyncIterator[WorkerEngine]:
    made = WorkerEngine(
        more.pop("options", options),
        FallbackPolicy(modes, cool_down=more.pop("cool_down", 0.5)),
        command=(sys.executable, "-m", scripted_worker.__name__, script),
        timeouts=WorkerTimeouts(load=more.pop("load_timeout", 20.0), hang=more.pop("hang_seconds", 60.0), check=0.1),
        **more,
    )
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(autouse=True)
def in_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


until = partial(supervised.until, seconds=60)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


@posix
@pytest.mark.parametrize(
    ("deed", "cause"),
    [
        ("oom@load", "out_of_memory"),
        ("nodriver@load", "no_driver"),
        ("olddriver@load", "driver_too_old"),
        ("wrong@load", "wrong_vectors"),
        ("freeze@load", "hang"),
        ("oom@work", "out_of_memory"),
        ("lost@work", "device_lost"),
        ("wrong@work", "wrong_vectors"),
        ("freeze@work", "hang"),
    ],
)
async def test_each_cause_leads_to_a_demotion_without_losing_a_text_and_to_a_promotion_when_it_is_gone(
    deed: str, cause: str, tmp_path: Path
) -> None:
    cured = tmp_path / "cured"
    frozen = deed.startswith("freeze")
    load_timeout = 8.0 if deed == "freeze@load" else 20.0
    # Until it is cured each try starts a worker, so the first one comes late.
    async with engine(
        f"{deed}:gpu-full:{cured}", load_timeout=load_timeout, hang_seconds=1.0 if frozen else 60.0, cool_down=2.0
    ) as made:
        await made.start()
        await rows_are_right(made, [f"text {number}" for number in range(10)])
        status = made.status
        assert (status.mode, status.offload) == ("cpu", None)
        (demotion,) = status.demotions
        assert (demotion.mode, demotion.cause) == ("gpu-full", cause), demotion.reason
        assert demotion.again_at is not None
        assert status.mode_changes_by_cause == {f"gpu-full>cpu>{cause}": 1}
        cured.touch()
        await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready")
        await rows_are_right(made, ["up", "again"])
        assert made.status.demotions == []
        assert made.status.offload == "5 layers on CUDA0"
        assert made.status.restarts == (1 if deed.endswith("work") else 0), "a promotion does not count as a restart"
        assert [move.target for move in made.status.mode_changes] == ["cpu", "gpu-full"]


@posix
async def test_a_killed_worker_comes_back_on_its_card(tmp_path: Path) -> None:
    async with engine(f"kill@work:gpu-full:{tmp_path / 'cured'}") as made:
        await made.start()
        futures = made.submit(["one", "two"], BULK)
        await until(lambda: made.status.restarts == 1)
        (tmp_path / "cured").touch()
        await asyncio.gather(*futures)
        assert (made.status.mode, made.status.demotions) == ("gpu-full", [])


@posix
async def test_no_text_is_lost_while_modes_change_under_load(tmp_path: Path) -> None:
    cured = tmp_path / "cured"
    stop = False
    async with engine(f"oom@work:gpu-full:{cured}", cool_down=1.0) as made:
        await made.start()

        async def client(name: str) -> int:
            done = 0
            while not stop:
                await rows_are_right(made, [f"{name} text {done + n}" for n in range(3)])
                done += 3
            return done

        clients = [asyncio.create_task(client(f"client {number}")) for number in range(4)]
        await until(lambda: made.status.mode == "cpu")
        cured.touch()
        await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready")
        cured.unlink()
        await until(lambda: made.status.mode == "cpu")
        stop = True
        assert all(done > 0 for done in await asyncio.gather(*clients))
    assert not workers()


@posix
async def test_while_the_cause_lasts_the_worker_that_serves_keeps_running(tmp_path: Path) -> None:
    async with engine(f"oom@load:gpu-full:{tmp_path / 'never'}", cool_down=0.2) as made:
        await made.start()
        pid, first = made.status.worker_pid, made.status.demotions[0]
        await until(
            lambda: made.status.demotions[0].at > first.at,
            lambda: rows_are_right(made, ["asked", "meanwhile"]),
        )
        assert made.status.worker_pid == pid and made.status.restarts == 0
        assert (made.status.demotions[0].again_at or 0) - made.status.demotions[0].at > (first.again_at or 0) - first.at


@posix
async def test_no_process_is_started_in_a_mode_that_is_unavailable() -> None:
    room = False

    def asked(mode: ExecutionMode) -> WorkerOptions:
        if mode is GPU_FULL and not room:
            raise ModeUnavailableError("out of memory before loading: the model would take 900 MiB", "out_of_memory")
        return options(mode)

    async with engine("ok", (GPU_FULL, GPU_PARTIAL, CPU_MODES[0]), options=asked) as made:
        await made.start()
        assert (made.status.mode, made.status.demotions[0].cause) == ("gpu-partial", "out_of_memory")
        assert made.status.restarts == 0
        room = True
        # From one mode on a card to another, there are never two workers on it at once.
        counts = set()

        async def count() -> None:
            counts.add(len(workers()))
            await asyncio.sleep(0.01)  # between two looks at the processes

        await until(lambda: made.status.mode == "gpu-full" and made.status.state == "ready", count)
        await rows_are_right(made, ["whole"])
        assert max(counts) == 1
        assert made.status.demotions == []


@posix
async def test_a_worker_leaves_its_card_only_when_there_is_room_for_the_next_one() -> None:
    asked: list[str] = []

    def require_room(mode: ExecutionMode) -> None:
        asked.append(mode.name)
        if len(asked) < 3:
            raise ModeUnavailableError("out of memory before loading: another program has it", "out_of_memory")

    async with engine(
        "fail:gpu-full", (GPU_FULL, GPU_PARTIAL, CPU_MODES[0]), require_room=require_room, cool_down=0.1
    ) as made:
        await made.start()
        pid = made.status.worker_pid
        await until(lambda: len(asked) == 2)
        assert made.status.worker_pid == pid and made.status.mode == "gpu-partial"
        (demotion,) = made.status.demotions
        assert "another program has it" in demotion.reason and demotion.cause == "out_of_memory"
        # Then it is tried; the mode fails all the same, and the slower one takes over again.
        await until(lambda: made.status.worker_pid not in (pid, None) and made.status.state == "ready")
        assert made.status.mode == "gpu-partial" and len(asked) >= 3
        await rows_are_right(made, ["served"])


@posix
async def test_closing_while_a_mode_is_tried_leaves_no_process(tmp_path: Path) -> None:
    async with engine(f"freeze@load:gpu-full:{tmp_path / 'never'}", load_timeout=4, cool_down=0.1) as made:
        await made.start()
        await until(lambda: len(workers()) == 2)
    assert not workers()


@posix
async def test_a_frozen_worker_is_replaced_and_an_idle_one_is_not() -> None:
    async with engine("ok", CPU_MODES, hang_seconds=1.0, cool_down=600) as made:
        await made.start()
        pid = made.status.worker_pid or 0
        os.kill(pid, signal.SIGSTOP)
        await rows_are_right(made, ["waits", "for a living worker"])
        assert made.status.worker_pid != pid
        assert made.status.demotions[0].cause == "hang"
        assert not psutil.pid_exists(pid)
        # An idle worker sends nothing either.
        pid = made.status.worker_pid or 0
        await asyncio.sleep(2.5)  # more than twice hang_seconds
        assert made.status.worker_pid == pid


async def test_a_text_that_is_not_tokenised_to_the_end_fails_alone_and_the_mode_stays() -> None:
    async with engine("stuck", CPU_MODES, hang_seconds=1.0) as made:
        await made.start()
        (stuck,) = made.submit(["this one is stuck"], BULK)
        others = [f"text {number}" for number in range(20)]
        await rows_are_right(made, others)
        with pytest.raises(RequestError, match="tokenizer cannot read this text"):
            await stuck
        assert (made.status.mode, made.status.demotions, made.status.restarts) == ("cpu", [], 1)
