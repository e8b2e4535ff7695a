"""Forms of Qwen3-Embedding."""

from __future__ import annotations

from pathlib import Path

from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.convert.zoo.form import Form


def make_embedder(folder: Path) -> Path:
    """Write a checkpoint in the form of Qwen3-Embedding-0.6B."""
    return make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280))


def make_reranker(folder: Path) -> Path:
    """Write a checkpoint in the form of Qwen3-Reranker-0.6B."""
    return make_qwen3_checkpoint(folder, kind="rerank", shape=Qwen3Shape(max_position_embeddings=1280))


FORMS = (
    Form(
        "qwen3_embedder",
        ("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-4B", "Qwen/Qwen3-Embedding-8B", "microsoft/harrier-oss-v1-0.6b"),
        "Qwen3ForCausalLM",
        make_embedder,
        "last",
        context=1280,
        pre="qwen2",
    ),
    Form(
        "qwen3_reranker",
        ("Qwen/Qwen3-Reranker-0.6B", "Qwen/Qwen3-Reranker-4B", "Qwen/Qwen3-Reranker-8B"),
        "Qwen3ForCausalLM",
        make_reranker,
        "rank",
        reference="qwen3_reranker",
        options={"task": "rerank"},
        differs={"cls.output.weight": "theirs knows a reranker by its model card"},
        context=1280,
        pre="qwen2",
    ),
)
