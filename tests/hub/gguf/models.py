"""Tiny models as GGUF files, with every kind of tokenizer and graph that the converter writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.errors import HubError
from edgeembed.hub.gguf.check import check_gguf
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta
from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint
from tests.convert.tiny_gte import make_tiny_gte
from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert, make_tiny_nomic_bert
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.lfm2 import make_lfm2_embedder
from tests.convert.zoo.neo_bert import make_neo_bert
from tests.convert.zoo.nomic_bert import make_nomic_moe
from tests.convert.zoo.prompted_rerankers import make_gemma as make_gemma_reranker
from tests.convert.zoo.t5 import make_sentence_t5
from tests.hub.gguf.loading import RERANKERS

_MAKERS = {
    "bert": (make_tiny_bert, "F32"),
    "qwen3": (make_qwen3_checkpoint, "Q4_K_M"),
    f"{RERANKERS}-bert": (make_tiny_cross_encoder, "Q8_0"),
    "xlm-roberta": (make_tiny_xlm_roberta, "Q8_0"),
    "gemma": (make_gemma_checkpoint, "F32"),
    "modern-bert": (make_tiny_modern_bert, "Q8_0"),
    "nomic-bert": (make_tiny_nomic_bert, "F16"),
    "t5": (make_sentence_t5, "Q8_0"),
    "mpnet": (make_tiny_mpnet, "F32"),
    "gte": (make_tiny_gte, "Q8_0"),
    "lfm2": (make_lfm2_embedder, "Q8_0"),
    "nomic-bert-moe": (make_nomic_moe, "Q8_0"),
    "neo-bert": (make_neo_bert, "Q8_0"),
    f"{RERANKERS}-gemma": (make_gemma_reranker, "F32"),
    f"{RERANKERS}-qwen3": (lambda folder: make_qwen3_checkpoint(folder, kind="rerank"), "Q8_0"),
}


def make_models(folder: Path) -> dict[str, Path]:
    """Write the models and return their files by name."""
    made = {}
    for name, (make, quantization) in _MAKERS.items():
        task = "rerank" if name.startswith(RERANKERS) else "embed"
        made[name] = folder / f"{name}.gguf"
        convert_checkpoint(make(folder / name), made[name], quantization=quantization, task=task)
    return made


def refusal(folder: Path, content: bytes) -> str:
    """Return the error message of a file that must be refused."""
    file = folder / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(HubError) as raised:
        check_gguf(file)
    assert str(file) in raised.value.message
    return raised.value.message
