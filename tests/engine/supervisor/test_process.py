"""What a worker gets from the daemon, and in which order. The worker is a program that sends back what it gets."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from edgeembed.engine.interface import BULK
from edgeembed.engine.ipc.messages import (
    LENGTH_BYTES,
    Cancel,
    Embed,
    EmbedItem,
    Stop,
    ToWorker,
    frame_length,
    to_worker_decoder,
)
from edgeembed.engine.supervisor import process
from edgeembed.engine.supervisor.process import WorkerProcess

pytestmark = pytest.mark.e2e

ECHO = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


async def test_parts_of_a_large_message_arrive_in_order_except_one_that_cannot_be_encoded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "PART_CHARACTERS", 10)
    echo = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    worker = WorkerProcess(echo)
    texts = ["the first", "half an emoji \ud83d", "the second"]
    items = [EmbedItem(number, text, BULK, False) for number, text in enumerate(texts)]
    worker.send(Embed(items))
    worker.send(Cancel([0]))
    assert worker._sending is not None
    await worker._sending
    worker.send(Stop())
    assert echo.stdin is not None and echo.stdout is not None
    echo.stdin.close()
    sent, found = await echo.stdout.read(), list[ToWorker]()
    while sent:
        end = LENGTH_BYTES + frame_length(sent[:LENGTH_BYTES])
        found.append(to_worker_decoder.decode(sent[LENGTH_BYTES:end]))
        sent = sent[end:]
    assert found == [Embed([items[0]]), Embed([items[2]]), Cancel([0]), Stop()]
    assert "cannot be encoded" in caplog.text and "emoji" not in caplog.text
    await worker.end(politely=False)
