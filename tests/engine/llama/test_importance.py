"""The importance of columns: mean squares of what texts put into each matrix, against a forward pass in numpy."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.interface import Pair
from edgeembed.engine.llama import importance
from edgeembed.engine.llama.importance import ImportanceReader, measure
from edgeembed.engine.llama.library import send_log_to
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert import numpy_bert
from tests.convert.llama_vectors import open_llama
from tests.convert.tiny_bert import make_tiny_bert, tiny_weights
from tests.convert.tiny_encoders import make_tiny_cross_encoder

pytestmark = pytest.mark.model
TEXTS = ["hello world", "the quick brown fox", "search the world, embedding Hello!", "a b c", "fox ? ca uber", "the the the"]
NAMES = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "intermediate.dense": "ffn_up", "output.dense": "ffn_down",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    send_log_to(lambda _line: None, verbose=False)


def f32(checkpoint: Path) -> Path:
    target = checkpoint.with_suffix(".gguf")
    return convert_checkpoint(checkpoint, target, ConversionOptions(quantization="F32", proof=False)).path


def test_sums_are_those_of_numpy_for_every_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", layers=2)
    file = f32(checkpoint)
    inputs: dict[str, list[np.ndarray]] = defaultdict(list)
    dense = numpy_bert._dense

    def recording(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
        layer, _, part = name.removeprefix("encoder.layer.").partition(".")
        inputs[f"blk.{layer}.{NAMES[part]}.weight"].append(x)
        return dense(w, name, x)

    monkeypatch.setattr(numpy_bert, "_dense", recording)
    weights = tiny_weights(json.loads((checkpoint / "config.json").read_text()))
    with open_llama(file) as llama:
        for text in TEXTS:
            numpy_bert.embed(weights, 4, llama.tokenize(text), "mean")
    steps: list[int] = []
    monkeypatch.setattr(importance, "TEXTS_AT_ONCE", 4)
    found = measure(file, TEXTS, threads=2, done=steps.append)
    assert steps == [4, 6]
    assert set(found) == {*inputs, "token_embd.weight", "output.weight"}
    for name, rows in inputs.items():
        expected = np.square(np.concatenate(rows)).mean(axis=0)
        np.testing.assert_allclose(found[name][0], expected, rtol=0.01, atol=1e-5, err_msg=name)  # llama.cpp's GELU is F16
    assert (found["token_embd.weight"] == 1).all(), "looked up, not multiplied"


def test_pairs_of_a_reranker_are_measured(tmp_path: Path) -> None:
    file = f32(make_tiny_cross_encoder(tmp_path / "tiny"))
    found = measure(file, [Pair("hello", "the world"), Pair("fox", "quick brown fox")], threads=1, task="rerank")
    assert found["blk.0.ffn_down.weight"].min() >= 0 and found["blk.0.ffn_down.weight"].max() > 0


def test_a_text_longer_than_the_context_is_skipped(tmp_path: Path) -> None:
    file = f32(make_tiny_bert(tmp_path / "tiny", context=16))
    short = measure(file, TEXTS[:2], threads=1)
    with_long = measure(file, [*TEXTS[:2], "hello " * 40], threads=1)
    np.testing.assert_array_equal(short["blk.1.attn_q.weight"], with_long["blk.1.attn_q.weight"])


def test_experts_have_the_sums_of_their_own_tokens() -> None:
    """A token sent to two experts counts for both; one to which none is sent has ones."""
    reader = ImportanceReader()
    rows = np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32)
    reader.add("blk.0.ffn_up_exps.weight", 3, rows, np.array([[0, 1], [1, 0]], dtype=np.int32))
    reader.add("blk.0.ffn_up_exps.weight", 3, rows[:1], np.array([[1]], dtype=np.int32))
    expected = [[(1 + 9) / 2, (4 + 0) / 2], [(1 + 9 + 1) / 3, (4 + 0 + 4) / 3], [1, 1]]
    np.testing.assert_allclose(reader.result()["blk.0.ffn_up_exps.weight"], expected)
