"""An event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from edgeembed.common.loop_thread import LoopThread, wait_for


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread("a loop")
    yield made
    made.close()


def test_results_and_errors_come_back(loop: LoopThread) -> None:
    async def name(fail: bool) -> str:
        if fail:
            raise ValueError("why")
        return threading.current_thread().name

    assert loop.run(name(False)) == "a loop"
    with pytest.raises(ValueError, match="why"):
        loop.run(name(True))


def test_a_time_limit_cancels(loop: LoopThread) -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        wait_for(loop.submit(wait()), 0.01)
    assert ended.wait(20)


def test_a_timeout_of_the_coroutine_itself_is_its_result(loop: LoopThread) -> None:
    async def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        loop.run(fail())


def test_closing_cancels_what_runs_and_refuses_more() -> None:
    loop = LoopThread("a loop")
    future = loop.submit(asyncio.sleep(3600))  # it never ends by itself
    loop.close()
    loop.close()
    with pytest.raises(CancelledError):
        future.result(20)
    with pytest.raises(RuntimeError):
        loop.run(asyncio.sleep(0))
