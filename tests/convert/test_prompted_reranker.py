"""Rerankers that are text generators with a prompt: what is refused, and what is in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.engine.classifier import decode_classifier
from edgeembed.engine.interface import Pair
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import ConversionError
from tests.convert.encoder_texts import PAIRS
from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.prompted_rerankers import make_gemma, make_qwen2

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("quiet")]


def options(path: Path, batch_tokens: int = 128) -> WorkerOptions:
    return WorkerOptions(
        path=str(path), threads=2, context_tokens=1024, batch_tokens=batch_tokens, mode="cpu", extra_buffers=True,
        task="rerank",
    )  # fmt: skip


def scores(model: LlamaModel) -> list[float]:
    try:
        return [float(model.embed([model.tokenize_pair(Pair(*pair))])[0][0]) for pair in PAIRS.values()]
    finally:
        model.close()


def test_scores_are_the_same_where_llama_cpp_pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a graphics card whose rows differ when the LM head is left out."""
    file = convert_checkpoint(make_qwen2(tmp_path / "tiny"), tmp_path / "tiny.gguf", quantization="F32").path
    expected = scores(LlamaModel(options(file)))
    monkeypatch.setattr("edgeembed.engine.llama.model.find_last_token_reader", lambda *_args, **_kwargs: None)
    assert scores(LlamaModel(options(file))) == pytest.approx(expected, abs=2e-3)


def test_the_classifier_is_a_difference_of_rows(tmp_path: Path) -> None:
    file = convert_checkpoint(make_qwen2(tmp_path / "tiny"), tmp_path / "tiny.gguf", quantization="F32").path
    reader = GGUFReader(file)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    table = next(tensor.data for tensor in reader.tensors if tensor.name == "token_embd.weight")
    pieces = keys["tokenizer.ggml.tokens"]
    found = decode_classifier(keys["edgeembed.rerank.classifier"], 1, 64)
    assert np.array_equal(found[0], table[pieces.index("1")] - table[pieces.index("0")])
    assert keys["qwen2.pooling_type"] == 4
    assert "{instruction}" not in keys["edgeembed.prompt.rerank"]


@pytest.mark.parametrize("kind", [make_qwen2, make_gemma])
def test_other_text_generators_are_refused(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    checkpoint = kind(tmp_path / "tiny")
    (checkpoint / "README.md").write_text("# A text generator\n", encoding="utf-8")
    with pytest.raises(ConversionError, match="as a reranker only"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", task="rerank").pooling == "rank"


def logit_score(yes: str, no: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from tests.convert import tiny_qwen3_checkpoint as qwen3

        pieces, _ = qwen3.tiny_vocabulary()
        kinds = [("", "Transformer"), ("1_LogitScore", "LogitScore")]
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
        write_json(folder / "modules.json", modules)
        ids = {"true_token_id": pieces.index(yes), "false_token_id": pieces.index(no)}
        write_json(folder / "1_LogitScore" / "config.json", ids)

    return change


def test_the_tokens_of_sentence_transformers_module_are_accepted(tmp_path: Path) -> None:
    checkpoint = make_qwen2(tmp_path / "tiny")
    logit_score("1", "0")(checkpoint)
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (make_qwen2, logit_score("yes", "no"), "not those of mxbai-rerank-v2"),
        (make_qwen2, lambda folder: edit_json(folder / "config.json", use_sliding_window=True), "use_sliding_window = True"),
        (make_qwen2, lambda folder: edit_json(folder / "config.json", rope_scaling={"type": "yarn"}), "rope_scaling"),
        (make_qwen2, lambda folder: edit_json(folder / "config.json", tie_word_embeddings=False), "no lm_head.weight"),
        (
            make_qwen2,
            lambda folder: edit_json(folder / "config.json", head_dim=32),
            "are not hidden_size, 64, as .* requires",
        ),
        (
            make_gemma,
            lambda folder: edit_json(folder / "config.json", hidden_activation="gelu"),
            "hidden_activation = 'gelu'",
        ),
        (make_gemma, lambda folder: edit_json(folder / "config.json", attention_bias=True), "attention_bias = True"),
    ],
)
def test_unsupported_checkpoints(
    tmp_path: Path, make: Callable[[Path], Path], change: Callable[[Path], object], message: str
) -> None:
    checkpoint = make(tmp_path / "tiny")
    change(checkpoint)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not list(tmp_path.glob("*.gguf"))
