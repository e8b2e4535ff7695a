"""What the lanes decide without a model: whose fault a failure is, and which batches the reader computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from edgeembed.common.heap import IdleTrim
from edgeembed.engine.causes import Cause
from edgeembed.engine.ipc.activity_table import ActivityTable
from edgeembed.engine.ipc.messages import ModeFailed
from edgeembed.engine.ipc.pipe import Pipe
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker.batching import WIDE, BatchQueue
from edgeembed.engine.worker.lanes import MOST_SECONDS_AT_ONCE, Lanes
from edgeembed.engine.worker_options import WorkerOptions
from tests.engine.worker.queued import ids, text
from tests.engine.worker.worker_process import worker_options

pytestmark = pytest.mark.model


def lanes_of(options: WorkerOptions, queue: BatchQueue[Any]) -> Lanes:
    pipe = cast(Pipe, SimpleNamespace(is_quiet=True))
    model = cast(LlamaModel, SimpleNamespace(wide=None))
    return Lanes(model, queue, options, pipe, ActivityTable(None), IdleTrim(), computes_at_once=True)


@pytest.mark.parametrize(
    ("reduction", "cause", "ends"),
    [(0, "out_of_memory", True), (2, "out_of_memory", True), (3, "out_of_memory", False), (0, "other", False)],
)
def test_a_worker_without_memory_for_a_batch_ends_unless_it_is_the_smallest(
    reduction: int, cause: Cause, ends: bool, tmp_path: Path
) -> None:
    """Under `ulimit -v` it is not killed: every batch fails."""
    lanes = lanes_of(
        msgspec.structs.replace(worker_options(tmp_path / "none.gguf"), reduction=reduction), BatchQueue(512, 64)
    )
    failure = ModeFailed("llama.cpp cannot compute this batch (code -2)", cause)
    assert lanes._own_fault("engine", failure) == (failure if ends else None)


def test_the_reader_leaves_a_query_to_the_wide_lane_if_texts_that_wait_would_make_its_batch_slow(tmp_path: Path) -> None:
    queue: BatchQueue[Any] = BatchQueue(512, 64)
    queue._asleep.add(WIDE)
    lanes = lanes_of(worker_options(tmp_path / "none.gguf"), queue)
    computed: list[list[int]] = []
    lanes._compute = lambda _entry, _context, batch: computed.append(ids(batch))  # type: ignore[method-assign]
    lanes._token_seconds = MOST_SECONDS_AT_ONCE / 50
    lanes.add_queries([text(1, 50)])
    assert computed == [[1]]
    queue.add([text(2, 40)])  # the lane has been woken, and has not looked yet
    lanes.add_queries([text(3, 20)])
    assert computed == [[1]]
    assert ids(queue.take()) == [2, 3]
