"""Forms of Qwen3-Embedding."""

from __future__ import annotations

from pathlib import Path

from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.convert.zoo.form import Form


def make_embedder(folder: Path) -> Path:
    """Write a checkpoint in the form of Qwen3-Embedding-0.6B."""
    return make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280))


FORMS = (
    Form(
        "qwen3_embedder",
        ("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-4B", "Qwen/Qwen3-Embedding-8B"),
        "Qwen3ForCausalLM",
        make_embedder,
        "last",
        context=1280,
        pre="qwen2",
    ),
)
