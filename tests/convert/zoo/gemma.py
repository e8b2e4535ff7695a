"""Forms of EmbeddingGemma."""

from __future__ import annotations

from pathlib import Path

from tests.convert.tiny_bert import edit_json
from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint
from tests.convert.zoo.form import Form


def make_embedder(folder: Path) -> Path:
    """Write a checkpoint in the form of embeddinggemma-300m."""
    make_gemma_checkpoint(folder)
    edit_json(folder / "config.json", max_position_embeddings=1280)
    return folder


FORMS = (
    Form(
        "embedding_gemma",
        (
            "google/embeddinggemma-300m",
            "google/embeddinggemma-300m-qat-q4_0-unquantized",
            "google/embeddinggemma-300m-qat-q8_0-unquantized",
        ),
        "Gemma3TextModel",
        make_embedder,
        "mean",
        reference="sentence_transformers",
        context=1280,
    ),
)
