"""Prompts of config_sentence_transformers.json in converted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeembed.errors import ConversionError
from edgeembed.hub.catalogue import Prompts
from edgeembed.hub.facts import facts_of
from edgeembed.hub.gguf.check import check_gguf
from edgeembed.models.prompts import choose_prompt
from tests.convert.decoder_reference import convert
from tests.convert.gguf_fields import fields
from tests.convert.tiny_bert import make_tiny_bert, write_json
from tests.convert.without_proof import convert_checkpoint

TASK = "Given a question, retrieve passages"


def stored_prompts(folder: Path, prompts: Any) -> dict[str, str]:
    """Convert a checkpoint with these prompts; return those in the file."""
    checkpoint = make_tiny_bert(folder / "tiny")
    write_json(checkpoint / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    prefix = "edgeembed.prompt."
    found = fields(convert(checkpoint))
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({"query": "query: ", "passage": "passage: "}, {"query": "query: {text}", "document": "passage: {text}"}),
        (
            {"query": "{q}: ", "document": "", "sts": "x"},
            {"query": "{{q}}: {text}", "document": "{text}", "similarity": "x{text}"},
        ),
        ({"query": f"Instruct: {TASK}\nQuery: "}, {"query": "Instruct: {instruction}\nQuery: {text}", "instruction": TASK}),
        (
            {"query": "task: search result | query: ", "document": "title: none | text: "},
            {
                "query": "task: {instruction} | query: {text}",
                "document": "title: none | text: {text}",
                "instruction": "search result",
            },
        ),
        ({"query": "", "document": ""}, {}),
        ({"clustering": "cluster: "}, {"clustering": "cluster: {text}"}),
        ({}, {}),
        (None, {}),
    ],
)
def test_templates(tmp_path: Path, prompts: dict[str, str] | None, expected: dict[str, str]) -> None:
    found = stored_prompts(tmp_path, prompts)
    assert found == expected
    for kind in ("query", "document"):
        # Filled by the daemon, they have the prefix of sentence-transformers.
        stored = (prompts or {}).get(kind, (prompts or {}).get("passage", "") if kind == "document" else "")
        prompt = choose_prompt(Prompts(**found), "query" if kind == "query" else "document", None, "tiny")
        assert prompt.apply("a {brace}") == stored + "a {brace}"


NAMES = {
    # EmbeddingGemma without its plain names, harrier, jina, nomic
    "Retrieval-query": "query", "web_search_query": "query", "retrieval.query": "query", "search_query": "query",
    "Retrieval-document": "document", "retrieval.passage": "document", "search_document": "document",
    "Classification": "classification", "Clustering": "clustering", "STS": "similarity", "sts_query": "similarity",
    "text-matching": "similarity",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_models(tmp_path: Path, name: str) -> None:
    kind = NAMES[name]
    found = stored_prompts(tmp_path, {name: "x: "})
    assert found == {kind: "x: {text}"}
    facts = facts_of(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "tiny.gguf")
    assert choose_prompt(facts.own_prompts, kind, None, "tiny").apply("a") == "x: a"  # type: ignore[arg-type]
    assert facts.notes == []


def test_plain_names_come_first(tmp_path: Path) -> None:
    given = {"Retrieval-query": "a", "query": "b", "passage": "d", "document": "c"}
    assert stored_prompts(tmp_path, given) == {"query": "b{text}", "document": "c{text}"}


def test_what_is_not_in_the_file_is_noted(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    write_json(
        checkpoint / "config_sentence_transformers.json",
        {"prompts": {"query": "q: ", "bitext": "b: ", "same": "q: ", "none": ""}},
    )
    (note,) = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").notes
    assert "prompts of other kinds, which clients must put before their texts: 'bitext' (see" in note


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("query", "Instruct: find\nQuery: a"), ("document", "d: a"), ("other", "{x} a"), ("none", "a"), (None, "a")],
)
def test_a_text_without_input_type_gets_the_default_prompt(tmp_path: Path, name: str | None, wanted: str) -> None:
    """As encode() of sentence-transformers does."""
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    prompts = {"query": "Instruct: find\nQuery: ", "document": "d: ", "other": "{x} ", "none": ""}
    write_json(checkpoint / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": name})
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    facts = facts_of(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "tiny.gguf")
    assert choose_prompt(facts.own_prompts, None, None, "tiny").apply("a") == wanted
    assert choose_prompt(facts.own_prompts, "document", None, "tiny").apply("a") == "d: a"
    assert choose_prompt(facts.own_prompts, None, "look", "tiny").apply("a") == "Instruct: look\nQuery: a"


def test_a_default_prompt_that_does_not_exist(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    write_json(checkpoint / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "query"})
    with pytest.raises(ConversionError, match="default_prompt_name = 'query' is not the name of a prompt"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


@pytest.mark.parametrize("prompts", [{"query": 1}, ["query: "]])
def test_malformed(tmp_path: Path, prompts: Any) -> None:
    with pytest.raises(ConversionError, match="prompts must be an object"):
        stored_prompts(tmp_path, prompts)
