"""Rerankers: the token ids and the score of a pair equal those of transformers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.diagnostics.verify import verify
from edgeembed.engine.interface import Pair
from edgeembed.engine.llama.library import ModelLoadError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.pair_template import PairTemplate
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.hub.store import Store
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.decoder_reference import QWEN3_ROWS, unpack
from tests.convert.decoder_texts import PAIRS as DECODER_PAIRS
from tests.convert.encoder_texts import PAIRS as ENCODER_PAIRS
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta_reranker
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.zoo.rows import read_rows

pytestmark = pytest.mark.model

ENCODERS = {"cross_encoder": make_tiny_cross_encoder, "xlm_roberta_reranker": make_tiny_xlm_roberta_reranker}


def reranker(path: Path, batch_tokens: int = 512) -> LlamaModel:
    options = WorkerOptions(
        path=str(path),
        threads=2,
        context_tokens=4096,
        batch_tokens=batch_tokens,
        mode="cpu",
        extra_buffers=True,
        task="rerank",
    )
    return LlamaModel(options)


@pytest.mark.parametrize("name", ENCODERS)
def test_scores_of_cross_encoders(name: str, tmp_path: Path) -> None:
    checkpoint = ENCODERS[name](tmp_path / "tiny")
    path = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32", proof=False)).path
    offset = GGUFReader(path).fields.get("edgeembed.rerank.second_segment")
    model = reranker(path)
    for reference in read_rows(name, checkpoint):
        ids = model.tokenize_pair(Pair(*ENCODER_PAIRS[reference.kind]))
        plain = ids % offset.contents() if offset else ids
        assert plain.tolist() == reference.ids, reference.kind
        ((score,),) = model.embed([ids])
        assert _sigmoid(score) == pytest.approx(_sigmoid(float(reference.value)), abs=1e-3)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize(("batch_tokens", "most"), [(512, 1e-3), (64, 5e-3)])  # other kernels for short pieces
def test_scores_of_qwen3_rerankers_whole_and_in_pieces(batch_tokens: int, most: float, tmp_path: Path) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny", kind="rerank")
    path = convert_checkpoint(
        checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32", proof=False, task="rerank")
    ).path
    model = reranker(path, batch_tokens)
    with np.load(QWEN3_ROWS) as reference:
        for (query, document), ids, score in zip(
            DECODER_PAIRS, unpack(reference, "pair"), reference["rerank_scores"], strict=True
        ):
            tokens = model.tokenize_pair(Pair(query, document))
            assert tokens.tolist() == ids
            assert float(model.embed([tokens])[0][0]) == pytest.approx(float(score), abs=most)


@pytest.mark.parametrize("kind", ["cross-encoder", "qwen3"])
def test_a_rerankers_file_has_canary_scores_that_are_checked(kind: str, tmp_path: Path) -> None:
    if kind == "qwen3":
        checkpoint, task = make_qwen3_checkpoint(tmp_path / "tiny", kind="rerank"), "rerank"
    else:
        checkpoint, task = make_tiny_cross_encoder(tmp_path / "tiny"), None
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="Q8_0", task=task))  # type: ignore[arg-type]
    found = verify(Settings(threads=2), Paths.resolve(), Store(Paths.resolve()).local(tmp_path / "tiny.gguf"))
    assert found.canary_cosines and found.holds


def test_a_file_for_the_other_task_is_refused(tmp_path: Path) -> None:
    path = convert_checkpoint(make_tiny_bert(tmp_path / "tiny"), tmp_path / "tiny.gguf", ConversionOptions(proof=False)).path
    with pytest.raises(ModelLoadError, match="embedding model") as caught:
        reranker(path)
    assert caught.value.fatal


def test_only_the_templates_own_special_tokens_are_special() -> None:
    seen: list[tuple[str, bool]] = []

    def tokenize(text: str, special: bool) -> np.ndarray:
        seen.append((text, special))
        return np.array([len(seen)], dtype=np.int32)

    template = PairTemplate("[CLS]{query}[SEP]{document}[SEP]", second_segment=100)
    ids = template.tokens(Pair("a [SEP] {document}", "b <s>"), tokenize)
    assert seen == [("[CLS]", True), ("a [SEP] {document}", False), ("[SEP]", True), ("b <s>", False), ("[SEP]", True)]
    assert ids.tolist() == [1, 2, 3, 104, 105]
    seen.clear()
    PairTemplate("<|im_start|>{instruction}: {query}<|im_end|>{document}", "default").tokens(Pair("q", "d"), tokenize)
    assert seen[1] == ("default: q", False)
