"""The supervisor with child processes that fail on purpose."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgeembed.engine.execution_modes import ExecutionMode
from edgeembed.engine.interface import BULK, INTERACTIVE
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory, FallbackPolicy
from edgeembed.engine.supervisor.memory_guard import MemoryGuard
from edgeembed.engine.supervisor.process import OOM_SCORE
from edgeembed.engine.supervisor.worker_engine import WorkerEngine, WorkerTimeouts
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import EngineUnavailableError, InputTooLongError, WorkerCrashedError
from tests.engine.supervisor import scripted_worker, supervised
from tests.engine.supervisor.supervised import rows_are_right
from tests.fakes import fake_packed_row, fake_row

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform == "win32", reason="signals end the scripted workers; Windows has none"),
]

ROOT = Path(__file__).parents[3]


def options(mode: ExecutionMode) -> WorkerOptions:
    return WorkerOptions(
        path="none", threads=1, context_tokens=20, batch_tokens=64, mode=mode.name, extra_buffers=mode.extra_buffers
    )


@asynccontextmanager
async def engine(
    script: str = "",
    *,
    policy: FallbackPolicy | None = None,
    load_timeout: float = 20.0,
    memory_guard: MemoryGuard | None = None,
) -> AsyncIterator[WorkerEngine]:
    command = (sys.executable, "-m", scripted_worker.__name__, script or "ok")
    made = WorkerEngine(
        options,
        policy or FallbackPolicy(),
        timeouts=WorkerTimeouts(load=load_timeout),
        command=command,
        memory_guard=memory_guard,
    )
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(autouse=True)
def in_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


until = partial(supervised.until, seconds=20)


async def test_rows_come_back_in_order_and_are_counted() -> None:
    async with engine() as made:
        await made.start()
        await rows_are_right(made, [f"text {number}" for number in range(50)])
        assert made.status.state == "ready"
        assert made.status.texts_computed == 50
        assert made.status.mode == "cpu"
        assert made.status.demotions == []


async def test_texts_are_tokenised_even_if_a_worker_dies_meanwhile(tmp_path: Path) -> None:
    async with engine(f"once:{tmp_path / 'done'}:SIGSEGV") as made:
        await made.start()
        long = "word " * 30
        written, counted = made.tokenize(["two words"], "tokens")[0], made.tokenize([long], "ids")[0]
        tokens = await written
        assert tokens.ids.tolist() == [0, 1, 2, 3]
        assert tokens.special.tolist() == [True, False, False, True]
        assert tokens.pieces == [b"<", b"two", b"words", b">"]
        assert len((await counted).ids) == 32 and (await counted).pieces is None
        assert made.status.texts_computed == 0
        assert made.status.restarts == 1


async def test_texts_sent_before_the_model_is_loaded_wait_for_it() -> None:
    async with engine() as made:
        starting = asyncio.create_task(made.start())
        await rows_are_right(made, ["early"])
        await starting


async def test_close_leaves_no_process_and_no_waiting_caller() -> None:
    async with engine() as made:
        await made.start()
        pid = made.status.worker_pid
        assert pid
        os.kill(pid, signal.SIGSTOP)  # a worker that does not listen
        (future,) = made.submit(["never"], INTERACTIVE)
        await made.close()
        assert not psutil.pid_exists(pid)
        with pytest.raises(EngineUnavailableError, match="stopping"):
            await future


async def test_close_ends_although_nobody_reads_the_workers_rows() -> None:
    async with engine("flood") as made:
        await made.start()
        async with asyncio.timeout(10):
            await made.close()


async def test_close_while_loading_is_quick_and_quiet(caplog: pytest.LogCaptureFixture) -> None:
    async def load_and_close() -> None:
        async with engine("hang:cpu") as made:
            waiting = asyncio.create_task(made.start())
            await until(lambda: made.status.worker_pid is not None)
            waiting.cancel()
            async with asyncio.timeout(1.8):  # and not the time that a worker gets to leave by itself
                await made.close()

    await load_and_close()
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_worker_that_cannot_start_for_a_while_is_no_demotion() -> None:
    away = False

    def somewhere(mode: ExecutionMode) -> WorkerOptions:
        if away:
            raise FileNotFoundError("the model's disk is away")
        return options(mode)

    made = WorkerEngine(somewhere, FallbackPolicy(), command=(sys.executable, "-m", scripted_worker.__name__, "ok"))
    try:
        await made.start()
        away = True
        os.kill(made.status.worker_pid or 0, signal.SIGKILL)
        await until(lambda: made.status.restarts >= 5)
        assert "the model's disk is away" in (made.status.reason or "")
        away = False
        await rows_are_right(made, ["here again"])
        assert (made.status.mode, made.status.demotions) == ("cpu", [])
    finally:
        await made.close()


async def test_a_replaced_model_is_never_loaded() -> None:
    replaced = False

    def checked(mode: ExecutionMode) -> WorkerOptions:
        if replaced:
            raise EngineUnavailableError("it is not the same file")
        return options(mode)

    made = WorkerEngine(checked, FallbackPolicy(), command=(sys.executable, "-m", scripted_worker.__name__, "ok"))
    try:
        await made.start()
        replaced = True
        os.kill(made.status.worker_pid or 0, signal.SIGKILL)
        await until(lambda: made.status.state == "failed")
        with pytest.raises(EngineUnavailableError, match="not the same file"):
            await made.submit(["text"], INTERACTIVE)[0]
    finally:
        await made.close()


async def test_a_file_that_was_written_to_while_it_was_loaded_is_read_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def counted(mode: ExecutionMode) -> WorkerOptions:
        asked.append(mode.name)
        return options(mode)

    command = (sys.executable, "-m", scripted_worker.__name__, f"replaced:{tmp_path / 'done'}")
    made = WorkerEngine(counted, FallbackPolicy(), command=command)
    try:
        await made.start()
        assert (asked, made.status.demotions) == (["cpu", "cpu"], [])
        await rows_are_right(made, ["a text"])
    finally:
        await made.close()


async def test_a_worker_whose_probe_was_wrong_is_replaced_by_one_in_a_slower_mode() -> None:
    async with engine() as made:
        await made.start()
        futures = made.submit(["a text"], BULK)
        made.distrust("the probe text's vector is wrong")
        assert np.array_equal((await futures[0]).vector, fake_row("a text"))
        await until(lambda: made.status.mode == "cpu-plain" and made.status.state == "ready")
        (demotion,) = made.status.demotions
        assert (demotion.mode, demotion.cause) == ("cpu", "wrong_vectors")
        await rows_are_right(made, ["another text"])


async def test_a_crash_while_loading_is_a_demotion_with_its_reason() -> None:
    async with engine("die:cpu:SIGILL") as made:
        await made.start()
        assert made.status.mode == "cpu-plain"
        (demotion,) = made.status.demotions
        assert (demotion.mode, demotion.cause) == ("cpu", "crash")
        assert "SIGILL" in demotion.reason and "loading the model" in demotion.reason and "GGML_ASSERT" in demotion.reason
        await rows_are_right(made, ["works"])


async def test_wrong_canary_rows_are_a_demotion_and_the_mode_that_worked_is_remembered(tmp_path: Path) -> None:
    memory = tmp_path / "execution-modes.json"
    async with engine("fail:cpu", policy=FallbackPolicy(memory=FallbackMemory(memory, "digest"))) as made:
        await made.start()
        assert made.status.mode == "cpu-plain"
    # The next start does not try the mode that failed, and still knows why.
    async with engine("ok", policy=FallbackPolicy(memory=FallbackMemory(memory, "digest"))) as made:
        await made.start()
        assert made.status.mode == "cpu-plain"
        assert "canary text 0 is wrong" in made.status.demotions[0].reason
        assert made.status.demotions[0].cause == "wrong_vectors"
    # Another model has its own demotions.
    async with engine("ok", policy=FallbackPolicy(memory=FallbackMemory(memory, "other"))) as made:
        await made.start()
        assert made.status.mode == "cpu"


async def test_a_load_that_hangs_is_a_demotion() -> None:
    async with engine("hang:cpu", load_timeout=5) as made:
        await made.start()
        assert made.status.mode == "cpu-plain"
        (demotion,) = made.status.demotions
        assert "no answer" in demotion.reason and demotion.cause == "hang"


async def test_several_kills_while_loading_are_a_demotion_where_nobody_tells_why() -> None:
    async with engine("die:cpu:SIGKILL", memory_guard=MemoryGuard(lambda: None)) as made:
        await made.start()
        (demotion,) = made.status.demotions
        assert (demotion.mode, demotion.cause) == ("cpu", "killed")
        assert demotion.again_at is not None, "it is tried again after a cool-down"


async def test_kills_while_loading_are_no_demotion_if_there_was_memory(tmp_path: Path) -> None:
    async with engine(f"kill@load:cpu:{tmp_path / 'gone'}", memory_guard=MemoryGuard(lambda: 7)) as made:
        starting = asyncio.create_task(made.start())
        pids: set[int | None] = set()
        await until(lambda: len(pids) > 4 or bool(pids.add(made.status.worker_pid)))  # type: ignore[func-returns-value]
        (tmp_path / "gone").touch()
        await starting
        assert made.status.demotions == [] and made.status.reduction == 0


async def test_a_load_for_which_the_smallest_worker_is_too_large_is_a_demotion() -> None:
    async with engine("die:cpu:SIGKILL", memory_guard=MemoryGuard(itertools.count().__next__)) as made:
        await made.start()
        (demotion,) = made.status.demotions
        assert (demotion.mode, demotion.cause, made.status.reduction) == ("cpu", "out_of_memory", 3)
        assert demotion.again_at is not None, "it is tried again after a cool-down"


@pytest.mark.parametrize(("error", "cause"), [(errno.ENOMEM, "out_of_memory"), (errno.EMFILE, "other")])
async def test_a_worker_that_cannot_be_started_has_a_cause(error: int, cause: str) -> None:
    def options_of(mode: ExecutionMode) -> WorkerOptions:
        if mode.name == "cpu":
            raise OSError(error, os.strerror(error))
        return options(mode)

    made = WorkerEngine(options_of, FallbackPolicy(), command=(sys.executable, "-m", scripted_worker.__name__, "ok"))
    try:
        await made.start()
        (demotion,) = made.status.demotions
        assert (demotion.mode, demotion.cause) == ("cpu", cause)
    finally:
        await made.close()


async def test_when_every_mode_fails_the_engine_fails_with_all_reasons() -> None:
    async with engine("die:cpu:SIGSEGV fail:cpu-plain") as made:
        with pytest.raises(EngineUnavailableError, match=r"cpu: ended by SIGSEGV.*cpu-plain: canary text 0"):
            await made.start()
        assert made.status.state == "failed"
        (future,) = made.submit(["late"], INTERACTIVE)
        with pytest.raises(EngineUnavailableError):
            await future


async def test_a_fatal_failure_is_not_tried_in_another_mode() -> None:
    async with engine("fatal") as made:
        with pytest.raises(EngineUnavailableError, match="reranker"):
            await made.start()
        assert made.status.demotions == []


async def test_a_killed_worker_is_replaced_in_its_mode_and_no_text_is_lost() -> None:
    async with engine() as made:
        await made.start()
        stop = False

        async def load(client: int) -> None:
            number = 0
            while not stop:
                await rows_are_right(made, [f"client {client} text {number + n}" for n in range(10)])
                number += 10

        clients = [asyncio.create_task(load(client)) for client in range(8)]
        for kill in range(3):
            computed = made.status.texts_computed
            await until(
                lambda computed=computed: (
                    made.status.texts_computed > computed  # type: ignore[misc]
                    and made.status.state == "ready"
                    and made.status.worker_pid is not None
                )
            )
            os.kill(made.status.worker_pid or 0, signal.SIGKILL)
            await until(lambda kill=kill: made.status.restarts == kill + 1)  # type: ignore[misc]
        await until(lambda: made.status.state == "ready")
        stop = True
        await asyncio.gather(*clients)
        assert made.status.mode == "cpu"


async def test_a_worker_that_is_killed_again_and_again_is_replaced_without_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with engine() as made:
        await made.start()
        for number in range(12):
            await rows_are_right(made, [f"text {number}"])
            assert made.status.worker_pid is not None
            os.kill(made.status.worker_pid, signal.SIGKILL)
            await until(lambda number=number: made.status.restarts == number + 1)  # type: ignore[misc]
        await rows_are_right(made, ["the last one"])
    assert "the worker is restarted in" not in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="a file of Linux")
async def test_the_kernel_kills_the_worker_before_the_daemon() -> None:
    async with engine() as made:
        await made.start()
        own, worker = (int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (os.getpid(), made.status.worker_pid))
        assert worker == min(1000, own + OOM_SCORE)


async def test_a_worker_that_is_killed_for_want_of_memory_comes_back_smaller(caplog: pytest.LogCaptureFixture) -> None:
    async with engine("small:2", memory_guard=MemoryGuard(itertools.count().__next__)) as made:
        await made.start()
        assert made.status.reduction == 0
        await rows_are_right(made, ["four kills later"])
        assert made.status.reduction == 2 and made.status.mode == "cpu" and made.status.demotions == []
    assert "killed by the kernel, because its cgroup or the machine had no memory left" in caplog.text


async def test_a_crash_while_computing_is_a_demotion_but_loses_no_text(tmp_path: Path) -> None:
    async with engine(f"once:{tmp_path / 'done'}:SIGSEGV") as made:
        await made.start()
        await rows_are_right(made, [f"text {number}" for number in range(10)])
        assert made.status.mode == "cpu-plain"
        (demotion,) = made.status.demotions
        assert "computing" in demotion.reason and demotion.cause == "crash"


@pytest.mark.parametrize("sent", ["ffffffff", "03000000c1c1c1"])  # too long for a message, and no message
async def test_a_worker_whose_messages_cannot_be_read_is_replaced_and_no_text_is_lost(sent: str, tmp_path: Path) -> None:
    async with engine(f"garbage:{tmp_path / 'done'}:{sent}") as made:
        await made.start()
        await rows_are_right(made, [f"text {number}" for number in range(10)])
        (demotion,) = made.status.demotions
        assert "messages cannot be read" in demotion.reason


async def test_a_text_that_crashes_every_worker_fails_alone_and_the_demotion_is_undone() -> None:
    async with engine("poison:SIGABRT") as made:
        await made.start()
        good = [f"text {number}" for number in range(12)]
        futures = made.submit([*good[:6], "this is poison", *good[6:]], BULK)
        with pytest.raises(WorkerCrashedError, match="SIGABRT"):
            await futures[6]
        rows = await asyncio.gather(*futures[:6], *futures[7:])
        assert all(np.array_equal(row.vector, fake_row(text)) for row, text in zip(rows, good, strict=True))
        await until(lambda: made.status.state == "ready")
        assert made.status.mode == "cpu"
        await rows_are_right(made, ["and on it goes"])


async def test_texts_with_other_outputs_survive_the_crash_of_one_of_them() -> None:
    async with engine("poison:SIGABRT") as made:
        await made.start()
        good, outputs = [f"text {number}" for number in range(6)], ("dense", "sparse")
        futures = made.submit(["this is poison", *good], BULK, outputs=outputs)
        with pytest.raises(WorkerCrashedError, match="SIGABRT"):
            await futures[0]
        rows = await asyncio.gather(*futures[1:])
        assert all(np.array_equal(row.vector, fake_packed_row(text, outputs)) for row, text in zip(rows, good, strict=True))


async def test_a_text_whose_workers_are_killed_fails_after_five_times() -> None:
    async with engine("poison:SIGKILL") as made:
        await made.start()
        (future,) = made.submit(["poison that takes all memory"], INTERACTIVE)
        with pytest.raises(WorkerCrashedError, match="5 times"):
            await asyncio.wait_for(future, 30)


async def test_a_text_that_is_too_long_fails_with_its_numbers() -> None:
    async with engine() as made:
        await made.start()
        (future,) = made.submit(["word " * 30], INTERACTIVE)
        with pytest.raises(InputTooLongError) as caught:
            await future
        assert (caught.value.tokens, caught.value.limit) == (32, 20)


async def test_a_cancelled_text_is_removed() -> None:
    async with engine() as made:
        await made.start()
        os.kill(made.status.worker_pid or 0, signal.SIGSTOP)
        (future,) = made.submit(["nobody waits"], INTERACTIVE)
        assert made.status.texts_waiting == 1
        future.cancel()
        await asyncio.sleep(0)
        assert made.status.texts_waiting == 0
        os.kill(made.status.worker_pid or 0, signal.SIGCONT)
        await rows_are_right(made, ["next"])
