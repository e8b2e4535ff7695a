"""Which models are known by the name in their file."""

from __future__ import annotations

import pytest

from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.gguf.families import model_of


@pytest.mark.parametrize(
    ("architecture", "name", "pooling"),
    [
        ("qwen3", "Qwen3 Embedding 0.6B", "last"),
        ("qwen3", "Qwen3-Embedding-0.6B-Q8_0", "last"),
        ("bert", "Bge Small En v1.5", "cls"),
        ("bert", "BAAI/bge-base-zh-v1.5", "cls"),
        ("bert", "Snowflake Arctic Embed L v2.0", "cls"),
        ("bert", "All MiniLM L6 v2", "mean"),
        ("bert", "Paraphrase Multilingual MiniLM L12 v2", "mean"),
        ("bert", "Multilingual E5 Large Instruct", "mean"),
        ("modern-bert", "Granite Embedding 97M Multilingual R2", "cls"),
        ("nomic-bert-moe", "nomic-embed-text-v2-moe", "mean"),
        ("jina-bert-v2", "jina-embeddings-v2-base-en", "mean"),
        # Fine-tunes and namesakes may pool in another way.
        ("bert", "bge-small-en-v1.5-legal", None),
        ("bert", "bge-micro-v2", None),
        ("bert", "bge-reranker-v2-m3", None),
        ("llama", "e5-base", None),
        ("bert", "", None),
    ],
)
def test_names_of_models(architecture: str, name: str, pooling: str | None) -> None:
    found = model_of(architecture, name)
    assert (found.pooling if found else None) == pooling


def test_the_catalogue_agrees() -> None:
    for entry in catalogue().values():
        if entry.task == "embed" and entry.pooling != "none":  # files of other converters have no heads
            found = model_of(entry.architecture, entry.title)
            assert found is not None and found.pooling == entry.pooling, entry.name
