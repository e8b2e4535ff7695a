"""Sizes of contexts, without a model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgeembed.engine.context_plan import (
    BULK_BYTES,
    MOST_REDUCTION,
    TILE,
    ContextShape,
    ModelFacts,
    attainable_tokens,
    make_plan,
    padding,
    reduced,
)
from edgeembed.engine.worker_options import WorkerOptions

MINILM = ModelFacts(pieces=False, trained_tokens=512, width=384, vocabulary=30_522, cell_bytes=0)
BGE_M3 = ModelFacts(pieces=False, trained_tokens=8192, width=1024, vocabulary=250_002, cell_bytes=0)
QWEN3 = ModelFacts(pieces=True, trained_tokens=32_768, width=1024, vocabulary=151_669, cell_bytes=114_688)


def options(**changes: Any) -> WorkerOptions:
    base: dict[str, Any] = {
        "path": "", "threads": 4, "context_tokens": 4096, "batch_tokens": 128, "mode": "cpu", "extra_buffers": True,
    }  # fmt: skip
    return WorkerOptions(**(base | changes))


def needed_cells(shape: ContextShape, *, between_pieces: bool) -> int:
    """Return the most cells taken at once: by a long text, queries between its pieces, and all prefixes."""
    return max(shape.longest_text + (shape.batch if between_pieces else 0), shape.batch) + shape.prefix_cells


@pytest.mark.parametrize("context", [64, 100, 128, 129, 1000, 4096, 40_000])
@pytest.mark.parametrize("batch", [1, 64, 100, 512])
def test_cells_never_run_out(context: int, batch: int) -> None:
    plan = make_plan(QWEN3, options(context_tokens=context, batch_tokens=batch), last_only=True)
    assert plan.wide.longest_text == min(context, QWEN3.trained_tokens)
    pieces = plan.wide.longest_text > plan.wide.batch
    assert plan.wide.cells >= needed_cells(plan.wide, between_pieces=pieces)
    assert plan.bulk.cells >= needed_cells(plan.bulk, between_pieces=False)
    assert plan.bulk.longest_text <= plan.wide.longest_text


@pytest.mark.parametrize("context", [64, 100, 129, 512, 8192])
@pytest.mark.parametrize("batch", [1, 100, 128, 700])
@pytest.mark.parametrize("facts", [MINILM, BGE_M3])
def test_an_encoders_batch_holds_its_longest_text_and_is_a_multiple_of_its_sequences(
    context: int, batch: int, facts: ModelFacts
) -> None:
    plan = make_plan(facts, options(context_tokens=context, batch_tokens=batch), last_only=False)
    for shape in (plan.wide, plan.bulk):
        assert shape.batch >= shape.longest_text
        assert shape.batch >= TILE
        assert shape.batch % shape.sequences == 0
        assert shape.prefix_cells == 0


def test_bulk_lanes_are_as_many_as_threads_and_memory_allow() -> None:
    for facts, threads, lanes in ((MINILM, 4, 4), (MINILM, 1, 1), (MINILM, 16, 16), (QWEN3, 8, 4), (BGE_M3, 7, 3)):
        plan = make_plan(facts, options(threads=threads), last_only=facts.pieces)
        assert (plan.bulk_lanes, plan.bulk.threads) == (lanes, threads // lanes)
        assert plan.bulk.longest_text >= 128
        outputs = 2 * plan.bulk.sequences if facts.pieces else plan.bulk.batch
        assert lanes * (plan.bulk.cells * facts.cell_bytes + 4 * facts.vocabulary * outputs) <= BULK_BYTES
    assert make_plan(MINILM, options(bulk_lanes=0), last_only=False).bulk_lanes == 0
    assert make_plan(MINILM, options(bulk_lanes=2, threads=8), last_only=False).bulk.threads == 4


def shape(**changes: Any) -> ContextShape:
    return make_plan(MINILM, options(**changes), last_only=False).wide


def test_padding_begins_at_the_configured_length() -> None:
    wide = shape(pad_from_tokens=40)
    assert padding([39], wide) == 0
    assert padding([40], wide) == 24
    assert padding([63], wide) == 1
    assert padding([64], wide) == 0
    assert padding([200], wide) == 0
    # What the plain kernel costs grows with the squares: two short texts are worth filling up later than one long text.
    assert padding([20, 20], wide) == 0
    assert padding([30, 30], wide) == 4
    assert padding([1] * 63, wide) == 0


def test_padding_can_be_switched_off_and_never_exceeds_the_trained_length() -> None:
    assert all(padding([count], shape(pad_from_tokens=0)) == 0 for count in range(1, 200))
    tiny = make_plan(ModelFacts(False, 20, 384, 100, 0), options(pad_from_tokens=10), last_only=False).wide
    assert padding([18], tiny) == 0  # the throw-away text would have 46 positions


def test_a_wider_model_is_padded_from_longer_texts_on() -> None:
    def first(facts: ModelFacts) -> int:
        wide = make_plan(facts, options(), last_only=False).wide
        return next(count for count in range(1, TILE) if padding([count], wide))

    assert 30 <= first(MINILM) < first(BGE_M3) < TILE


# --- less memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [MINILM, BGE_M3, QWEN3])
def test_each_step_takes_less_memory(facts: ModelFacts) -> None:
    def bytes_of(reduction: int) -> int:
        plan = make_plan(facts, reduced(options(reduction=reduction), facts.trained_tokens), last_only=facts.pieces)
        lanes = [plan.wide, *[plan.bulk] * plan.bulk_lanes]
        return sum(lane.cells * facts.cell_bytes + 4 * lane.batch * (facts.width + facts.vocabulary) for lane in lanes)

    sizes = [bytes_of(reduction) for reduction in range(MOST_REDUCTION + 1)]
    assert sizes == sorted(set(sizes), reverse=True)
    assert bytes_of(MOST_REDUCTION + 1) == sizes[-1]


def test_a_reduced_worker_keeps_what_is_small_already() -> None:
    small = options(bulk_lanes=0, batch_tokens=32, context_tokens=100, prefix_tokens=0)
    for reduction in range(MOST_REDUCTION + 1):
        asked = msgspec.structs.replace(small, reduction=reduction)
        assert reduced(asked, 512) == asked
    assert reduced(options(reduction=2), 512).context_tokens == 256, "half of what the model takes, not of what is allowed"


def test_a_higher_limit_helps_up_to_the_trained_length_unless_memory_is_the_reason() -> None:
    def attainable(facts: ModelFacts, **changes: Any) -> int:
        asked = options(**changes)
        return attainable_tokens(make_plan(facts, reduced(asked, facts.trained_tokens), last_only=False), asked)

    assert attainable(QWEN3, context_tokens=4096) == QWEN3.trained_tokens
    assert attainable(QWEN3, context_tokens=QWEN3.trained_tokens) == 0
    assert attainable(MINILM, context_tokens=4096) == 0
    assert attainable(QWEN3, context_tokens=4096, reduction=2) == 0
