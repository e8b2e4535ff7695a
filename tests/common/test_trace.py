"""Stamps of stages: what a traced process writes, and that another one is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeembed.common import trace
from edgeembed.common.trace import VARIABLE, Recorder, Stamp, read_folder, read_stamps, traced
from edgeembed.engine.child_environment import child_environment
from edgeembed.engine.worker.batching import BatchQueue
from edgeembed.server.request_log import log_answer


def test_nothing_is_wrapped_or_kept_in_a_process_that_is_not_traced() -> None:
    def function() -> None: ...

    assert trace.recorder is None
    assert traced(before="arrive", within="compute")(function) is function
    assert not hasattr(log_answer, "__wrapped__")
    assert not hasattr(BatchQueue.take, "__wrapped__")
    assert VARIABLE not in child_environment({})
    assert VARIABLE in child_environment({VARIABLE: "/tmp"})


def test_stamps_are_read_back_in_order_with_the_parts_of_the_stage_that_follows(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "1.stamps")
    recorder.stamp("queue")
    recorder.part("compute: attention", 1500)
    recorder.stamp("compute")
    queue, part, compute = read_stamps(tmp_path / "1.stamps")
    assert (queue.stage, queue.duration) == ("queue", None)
    assert part == Stamp(queue.at, "compute: attention", 1500)
    assert (compute.stage, compute.duration) == ("compute", None)
    assert queue.at < compute.at


def test_a_full_file_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "1.stamps")
    monkeypatch.setattr(trace, "_MOST_STAMPS", 3)
    for _ in range(5):
        recorder.stamp("queue")
    assert len(read_folder(tmp_path)) == 3


@pytest.mark.skipif(os.name == "nt", reason="the file is mapped")
def test_a_traced_process_stamps_calls(tmp_path: Path) -> None:
    program = """
import asyncio
from edgeembed.common.trace import traced

@traced(before="arrive", within="parse HTTP")
def function(value): return value

@traced(before="route", within="encode")
async def coroutine(value): return value

assert function(1) == 1 and function.__name__ == "function"
assert asyncio.run(coroutine(2)) == 2
"""
    subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {VARIABLE: str(tmp_path)},
        timeout=60,
        check=True,
    )
    assert [stamp.stage for stamp in read_folder(tmp_path)] == ["arrive", "parse HTTP", "route", "encode"]
