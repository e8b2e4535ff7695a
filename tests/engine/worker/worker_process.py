"""A worker in a separate process, driven over its pipe."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeembed.engine.interface import ModelInfo
from edgeembed.engine.ipc.messages import (
    LENGTH_BYTES,
    ComputedRows,
    Embed,
    EmbedItem,
    Failed,
    FromWorker,
    Ready,
    RowItem,
    frame,
    frame_length,
    from_worker_decoder,
)
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed.engine.worker_options import WorkerOptions


def worker_options(path: Path) -> WorkerOptions:
    return WorkerOptions(
        path=str(path), threads=2, context_tokens=512, batch_tokens=64, mode="cpu", extra_buffers=True, bulk_lanes=2
    )


@contextmanager
def start(path: Path, command: Sequence[str] = WORKER_COMMAND, *, sandbox: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    options = msgspec.structs.replace(worker_options(path), sandbox=sandbox)
    whole = [*command, "cpu", msgspec.json.encode(options).decode()]
    with subprocess.Popen(whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def receive(process: subprocess.Popen[bytes]) -> FromWorker:
    assert process.stdout is not None
    header = process.stdout.read(LENGTH_BYTES)
    assert header, process.stderr and process.stderr.read().decode()
    return from_worker_decoder.decode(process.stdout.read(frame_length(header)))


def wait_until_ready(process: subprocess.Popen[bytes]) -> ModelInfo:
    while not isinstance(message := receive(process), Ready):
        pass
    return message.info


def answers(process: subprocess.Popen[bytes], items: Sequence[EmbedItem]) -> tuple[dict[int, RowItem | Failed], int]:
    """Send items, and return the result for each and the number of batches."""
    assert process.stdin is not None
    process.stdin.write(frame(Embed(list(items))))
    process.stdin.flush()
    found: dict[int, RowItem | Failed] = {}
    batches = 0
    while len(found) < len(items):
        match receive(process):
            case ComputedRows(rows):
                found.update({row.id: row for row in rows})
                batches += 1
            case Failed() as failed:
                found[failed.id] = failed
    return found, batches
