"""What a worker gets from the daemon, and in which order. The worker is a program that sends back what it gets."""

from __future__ import annotations

import asyncio
import sys

import pytest

from edgeembed.engine.interface import BULK, INTERACTIVE
from edgeembed.engine.ipc.messages import (
    Cancel,
    Embed,
    EmbedItem,
    Stop,
    to_worker_decoder,
)
from edgeembed.engine.supervisor import pipes, process
from edgeembed.engine.supervisor.pipes import WorkerPipes
from edgeembed.engine.supervisor.process import WorkerProcess

pytestmark = pytest.mark.e2e

ECHO = """
import os
while data := os.read(0, 65536):
    os.write(1, data)
"""


async def start_echo(monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    monkeypatch.setattr(pipes, "from_worker_decoder", to_worker_decoder)
    return WorkerProcess(await WorkerPipes.start([sys.executable, "-c", ECHO]))


async def test_parts_of_a_large_message_arrive_in_order_except_one_that_cannot_be_encoded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "PART_CHARACTERS", 10)
    worker = await start_echo(monkeypatch)
    texts = ["the first", "half an emoji \ud83d", "the second"]
    items = [EmbedItem(number, text, BULK, False) for number, text in enumerate(texts)]
    worker.send(Embed(items))
    worker.send(Cancel([0]))
    assert worker._sending is not None
    await worker._sending
    worker.send(Stop())
    found = [await worker.receive() for _ in range(4)]
    assert found == [Embed([items[0]]), Embed([items[2]]), Cancel([0]), Stop()]
    assert "cannot be encoded" in caplog.text and "emoji" not in caplog.text
    await worker.end(politely=False)


async def test_texts_of_requests_that_are_ready_together_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await start_echo(monkeypatch)
    items = [EmbedItem(number, str(number), INTERACTIVE, False) for number in range(5)]
    worker.send_items(items[:1], soon=True)
    worker.send_items(items[1:3], soon=True)
    await asyncio.sleep(0)
    worker.send_items(items[3:4], soon=True)
    worker.send(Cancel([3]))  # never ahead of its text
    worker.send_items(items[4:], soon=False)
    found = [await worker.receive() for _ in range(4)]
    assert found == [Embed(items[:3]), Embed(items[3:4]), Cancel([3]), Embed(items[4:])]
    await worker.end(politely=False)


async def test_a_function_gets_each_message_in_order_and_its_failure_ends_the_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = await start_echo(monkeypatch)
    worker.send(Cancel([1]))
    assert await worker.receive() == Cancel([1])
    found: list[object] = []

    def handle(message: object) -> None:
        found.append(message)
        if message == Cancel([99]):
            raise ValueError("unexpected")

    for number in (2, 3, 99, 4):
        worker.send(Cancel([number]))
    with pytest.raises(ValueError, match="unexpected"):
        await worker.deliver(handle)
    assert found == [Cancel([2]), Cancel([3]), Cancel([99])]
    await worker.end(politely=False)
    assert worker.killed_from_outside


async def test_the_last_lines_of_a_process_that_has_ended_are_kept() -> None:
    program = "import sys; sys.stderr.write('x' * 200_000 + '\\nGGML_ASSERT(1 == 2) failed\\n'); exit(3)"
    worker = WorkerProcess(await WorkerPipes.start([sys.executable, "-c", program]))
    assert await worker.receive() is None
    await worker.end(politely=False)
    assert worker.exit_report("idle") == "ended with exit status 3 while idle: GGML_ASSERT(1 == 2) failed"
