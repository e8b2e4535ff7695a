"""The bias of attention scores: in every mode, in batches of any lengths, and never without a sign of its absence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.engine.interface import Float32Row
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.score_bias import ScoreBias
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.llama_vectors import cosine
from tests.convert.tiny_encoders import TOKENS
from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.without_proof import convert_checkpoint

pytestmark = pytest.mark.model

LENGTHS = (3, 200, 3, 3, 17, 64, 1, 130)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mpnet")
    return convert_checkpoint(make_tiny_mpnet(folder / "tiny"), folder / "tiny.gguf", quantization="F32").path


@contextmanager
def loaded(file: Path, **changes: Any) -> Iterator[LlamaModel]:
    options = {"threads": 2, "context_tokens": TOKENS, "batch_tokens": 512, "mode": "cpu", "extra_buffers": True}
    model = LlamaModel(WorkerOptions(path=str(file), **(options | changes)))
    try:
        yield model
    finally:
        model.close()


def texts() -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    random = np.random.default_rng(0)
    return [random.integers(5, 60, length, dtype=np.int32) for length in LENGTHS]


def rows(file: Path, **changes: Any) -> list[Float32Row]:
    with loaded(file, **changes) as model:
        return [model.embed([text])[0] for text in texts()]


@pytest.mark.parametrize("kernels", [True, False])
def test_rows_do_not_depend_on_the_batch_or_on_earlier_passes(file: Path, kernels: bool) -> None:
    with loaded(file, extra_buffers=kernels) as model:
        alone = [model.embed([text])[0] for text in texts()]
        for _ in range(2):  # the second pass uses the graph of the first one
            assert all(cosine(one, other) > 0.9999 for one, other in zip(alone, model.embed(texts()), strict=True))
        backwards = zip(alone[::-1], model.embed(texts()[::-1]), strict=True)
        assert all(cosine(one, other) > 0.9999 for one, other in backwards)
        bulk = model.new_bulk_context()  # a mask of its own
        try:
            assert cosine(bulk.compute([Reading(texts()[1])])[0], alone[1]) > 0.9999
        finally:
            bulk.close()


def test_our_kernels_and_those_of_llama_cpp_agree(file: Path) -> None:
    ours, theirs = rows(file, extra_buffers=True), rows(file, extra_buffers=False)
    assert all(cosine(one, other) > 0.9999 for one, other in zip(ours, theirs, strict=True))


def test_a_pass_whose_layers_did_not_all_take_the_bias_fails(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(file) as model:
        bias = model.wide._change
        assert isinstance(bias, ScoreBias)
        monkeypatch.setattr(bias, "_layers", 3)
        with pytest.raises(ComputeError, match="2 of 3 layers"):
            model.embed(texts()[:1])


def test_it_is_not_loaded_onto_a_graphics_card(file: Path) -> None:
    with pytest.raises(ModelLoadError, match="on the processor"), loaded(file, gpu_layers=1):
        pass
