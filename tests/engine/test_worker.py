"""The worker's end of the pipe, and how a worker ends."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeembed.engine.process import WORKER_COMMAND
from edgeembed.engine.protocol import (
    BULK,
    LENGTH_BYTES,
    Embed,
    EmbedItem,
    FromWorker,
    Ready,
    Rows,
    Started,
    WorkerOptions,
    frame,
    frame_length,
    from_worker_decoder,
)
from edgeembed.engine.worker import Pipe
from tests.engine.tiny_qwen3 import make_tiny_qwen3


def messages(raw: bytes) -> Iterator[FromWorker]:
    at = 0
    while at < len(raw):
        end = at + LENGTH_BYTES + frame_length(raw[at : at + LENGTH_BYTES])
        yield from_worker_decoder.decode(raw[at + LENGTH_BYTES : end])
        at = end


def test_the_start_of_a_batch_never_overtakes_the_rows_of_the_one_before() -> None:
    sink = io.BytesIO()
    pipe = Pipe(io.BytesIO(), sink)
    for number in range(500):
        pipe.send_now(Started([number]))
        pipe.send(Rows([]))
    pipe.finish()
    assert [type(message) for message in messages(sink.getvalue())] == [Started, Rows] * 500


def test_a_message_that_breaks_off_is_the_end() -> None:
    whole = frame(Embed([EmbedItem(1, "text", BULK, False)]))
    assert isinstance(Pipe(io.BytesIO(whole), io.BytesIO()).read(), Embed)
    for length in range(len(whole)):
        assert Pipe(io.BytesIO(whole[:length]), io.BytesIO()).read() is None


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    options = WorkerOptions(
        path=str(make_tiny_qwen3(tmp_path / "tiny.gguf")),
        threads=1, context_tokens=64, batch_tokens=64, rung="cpu", extra_buffers=True,
    )  # fmt: skip
    command = [*WORKER_COMMAND, "cpu", msgspec.json.encode(options).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    while True:
        header = process.stdout.read(LENGTH_BYTES)
        if isinstance(from_worker_decoder.decode(process.stdout.read(frame_length(header))), Ready):
            return


def test_a_daemon_that_dies_in_the_middle_of_a_message_leaves_no_worker(worker: subprocess.Popen[bytes]) -> None:
    wait_until_ready(worker)
    assert worker.stdin is not None
    worker.stdin.write(frame(Embed([EmbedItem(1, "text " * 1000, BULK, False)]))[:-100])
    worker.stdin.close()
    assert worker.wait(10) == 0


def test_a_worker_that_cannot_read_its_daemon_ends_with_the_reason(worker: subprocess.Popen[bytes]) -> None:
    wait_until_ready(worker)
    assert worker.stdin is not None and worker.stderr is not None
    worker.stdin.write(b"\x03\0\0\0\xc1\xc1\xc1")
    worker.stdin.flush()
    assert worker.wait(10) == 1
    assert b"DecodeError" in worker.stderr.read()
