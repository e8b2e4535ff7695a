"""Runs of nodes that are computed in steps, and the team of threads that shares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.llama.kernel_hook import PASS_PARTS, Kernels
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Tokens
from edgeembed.engine.worker_options import WorkerOptions
from tests.engine.kernels.library import needs_kernels

LENGTHS = (1, 2, 7, 14, 15, 48, 49, 97, 130, 290, 512)
"""Around the sizes at which kernels, pieces and the places of tensors in memory change."""


def texts(lengths: tuple[int, ...]) -> list[Tokens]:
    """Return texts of tokens, the same ones for each length."""
    return [np.random.default_rng(length).integers(1000, 20_000, length).astype(np.int32) for length in lengths]


def open_model(file: Path, threads: int) -> LlamaModel:
    return LlamaModel(
        WorkerOptions(
            path=str(file),
            threads=threads,
            context_tokens=512,
            batch_tokens=512,
            mode="cpu",
            extra_buffers=True,
            pad_from_tokens=0,
        )
    )


def part_times(kernels: Kernels, compute: Callable[[], object]) -> dict[str, int]:
    """Return the nanoseconds of each part of a forward pass."""
    times = kernels.part_times()
    compute()
    return dict(zip(PASS_PARTS, times(), strict=True))


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["Q8_0", "F32"])
def test_rows_do_not_depend_on_the_number_of_threads(minilm: Callable[[str], Path], quantization: str) -> None:
    needs_kernels()
    rows = []
    for threads in (1, 2, 4):
        model = open_model(minilm(quantization), threads)
        rows.append(np.stack([model.embed([tokens])[0] for tokens in texts(LENGTHS) for _ in range(3)]))
        model.close()
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


@pytest.mark.model
@pytest.mark.parametrize("threads", [1, 2])
def test_products_attention_and_norms_of_a_bert_model_are_steps_of_runs(minilm: Callable[[str], Path], threads: int) -> None:
    needs_kernels()
    model = open_model(minilm("Q8_0"), threads)
    for tokens in texts((14, 400)):
        found = part_times(model.kernels, lambda tokens=tokens: model.embed([tokens]))  # type: ignore[misc]
        assert found["products"] > 0
        assert found["attention"] > 0
        assert found["normalise"] > 0
        assert found["other steps"] == 0
    model.close()
