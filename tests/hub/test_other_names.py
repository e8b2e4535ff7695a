"""Names that other programs have for the catalogue's models. Sources: the pages of Ollama's library, LM Studio's lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from edgeembed.errors import UnknownModelError
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.other_names import meaning
from edgeembed.hub.references import installed_name, parse_spec

NAMES = [
    # Ollama's library: the name alone is the tag that its page marks as latest.
    ("all-minilm", "all-minilm-l6-v2"),
    ("all-minilm:latest", "all-minilm-l6-v2"),
    ("all-minilm:22m", "all-minilm-l6-v2"),
    ("all-minilm:l6-v2", "all-minilm-l6-v2"),
    ("all-minilm:22m-l6-v2-fp16", "all-minilm-l6-v2:F16"),
    ("bge-large", "bge-large-en-v1.5"),
    ("bge-large:335m-en-v1.5-fp16", "bge-large-en-v1.5:F16"),
    ("bge-m3", "bge-m3"),
    ("bge-m3:latest", "bge-m3"),
    ("bge-m3:567m-fp16", "bge-m3:F16"),
    ("embeddinggemma", "embeddinggemma-300m"),
    ("embeddinggemma:300m-bf16", "embeddinggemma-300m:BF16"),
    ("nomic-embed-text", "nomic-embed-text-v1.5"),
    ("nomic-embed-text:v1.5", "nomic-embed-text-v1.5"),
    ("nomic-embed-text:137m-v1.5-fp16", "nomic-embed-text-v1.5:F16"),
    ("qwen3-embedding", "qwen3-embedding-8b"),
    ("qwen3-embedding:latest", "qwen3-embedding-8b"),
    ("qwen3-embedding:0.6b", "qwen3-embedding-0.6b"),
    ("qwen3-embedding:4b-q4_K_M", "qwen3-embedding-4b:Q4_K_M"),
    ("snowflake-arctic-embed:33m", "snowflake-arctic-embed-s"),
    ("snowflake-arctic-embed:s", "snowflake-arctic-embed-s"),
    ("library/all-minilm", "all-minilm-l6-v2"),
    ("all-minilm:33m", "all-minilm-l12-v2"),
    ("all-minilm:33m-l12-v2-fp16", "all-minilm-l12-v2:F16"),
    ("mxbai-embed-large", "mxbai-embed-large-v1"),
    ("mxbai-embed-large:latest", "mxbai-embed-large-v1"),
    ("mxbai-embed-large:335m-v1-fp16", "mxbai-embed-large-v1:F16"),
    ("paraphrase-multilingual:278m", "paraphrase-multilingual-mpnet-base-v2"),
    ("paraphrase-multilingual:278m-mpnet-base-v2-fp16", "paraphrase-multilingual-mpnet-base-v2:F16"),
    ("snowflake-arctic-embed", "snowflake-arctic-embed-l"),
    ("snowflake-arctic-embed:335m", "snowflake-arctic-embed-l"),
    ("snowflake-arctic-embed:110m", "snowflake-arctic-embed-m"),
    ("snowflake-arctic-embed:22m", "snowflake-arctic-embed-xs"),
    ("snowflake-arctic-embed2", "snowflake-arctic-embed-l-v2.0"),
    ("snowflake-arctic-embed2:568m-l-fp16", "snowflake-arctic-embed-l-v2.0:F16"),
    ("hf.co/Qwen/Qwen3-Embedding-0.6B-GGUF:Q8_0", "qwen3-embedding-0.6b:Q8_0"),
    # LM Studio's
    ("text-embedding-all-minilm-l6-v2-embedding", "all-minilm-l6-v2"),
    ("text-embedding-nomic-embed-text-v1.5", "nomic-embed-text-v1.5"),
    ("text-embedding-nomic-embed-text-v1.5@q8_0", "nomic-embed-text-v1.5:Q8_0"),
    ("text-embedding-qwen3-embedding-0.6b", "qwen3-embedding-0.6b"),
    ("text-embedding-bge-m3", "bge-m3"),
    ("text-embedding-embeddinggemma-300m", "embeddinggemma-300m"),
    # Repositories, with and without their owner
    ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
    ("Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding-0.6b"),
    ("Qwen3-Embedding-0.6B-GGUF", "qwen3-embedding-0.6b"),
    ("nomic-ai/nomic-embed-text-v1.5", "nomic-embed-text-v1.5"),
    ("BAAI/bge-reranker-v2-m3", "bge-reranker-v2-m3"),
    ("cross-encoder/ms-marco-MiniLM-L-6-v2", "ms-marco-minilm-l6-v2"),  # its name until 2025
    ("text-embedding-paraphrase-multilingual-minilm-l12-v2.gguf", "paraphrase-multilingual-minilm-l12-v2"),
]
OTHERS = [
    *("all-minilm:l6", "snowflake-arctic-embed:137m", "snowflake-arctic-embed:m-long", "snowflake-arctic-embed2:305m"),
    *("granite-embedding", "granite-embedding:30m", "granite-embedding:278m", "nomic-embed-text-v3"),  # of Granite, R1
    *("nomic-embed-text:v1", "bge-m3:1b", "qwen3-embedding:32b", "embeddinggemma:300m-qat-q8_0"),  # QAT has other weights
    *("text-embedding-embeddinggemma-300m-qat", "text-embedding-3-small", "text-embedding-nomic-embed-text-v2"),
    *("", ":latest", "latest", ":", "-q8_0", "library/", "stranger/bge-m3"),
]
"""Names of models that are not in the catalogue, and of none."""


@pytest.mark.parametrize(("name", "spec"), NAMES)
def test_what_a_name_means(name: str, spec: str) -> None:
    for spelling in (name, name.upper(), name.lower()):
        found = meaning(spelling)
        assert found is not None and found.spec == spec


@pytest.mark.parametrize("name", OTHERS)
def test_a_name_of_another_model_means_none_of_ours(name: str) -> None:
    assert meaning(name) is None


def test_no_two_models_share_a_name() -> None:
    counts = Counter(name for entry in catalogue().values() for name in {entry.name, *entry.other_names})
    assert [name for name, count in counts.items() if count > 1] == []
    assert set(catalogue().by_any_name) == set(counts)


@pytest.mark.parametrize(("name", "spec"), NAMES)
def test_commands_take_the_same_names(name: str, spec: str) -> None:
    assert str(parse_spec(name)) == spec


@pytest.mark.parametrize("name", ["all-minilm:44m", "all-minilm:44m-l13-v2-fp16", "nomic-embed-text:v1", "bge-large:1b"])
def test_a_tag_of_another_model_is_not_taken_for_a_type(name: str) -> None:
    with pytest.raises(UnknownModelError, match=r"is not in the catalogue; .* is .* here"):
        parse_spec(name)


def test_a_file_comes_before_a_repository_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BAAI").mkdir()
    (tmp_path / "BAAI" / "bge-m3").write_bytes(b"x")
    assert parse_spec("BAAI/bge-m3").path == tmp_path / "BAAI" / "bge-m3"


def test_a_strangers_model_does_not_get_such_a_name_by_itself() -> None:
    """Otherwise clients that mean the catalogue's model would get another one's vectors."""
    assert installed_name(None, "stranger/bge-large-GGUF", "bge-large-Q8_0.gguf") == "stranger-bge-large"
    assert installed_name("bge-large", "stranger/bge-large-GGUF", "bge-large-Q8_0.gguf") == "bge-large", "asked for"
