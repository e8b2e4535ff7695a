"""Prompts of config_sentence_transformers.json in converted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeembed.errors import ConversionError
from edgeembed.hub.catalogue import Prompts
from edgeembed.models.prompts import choose_prompt
from tests.convert.decoder_reference import convert
from tests.convert.gguf_fields import fields
from tests.convert.tiny_bert import make_tiny_bert, write_json

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
        ({"query": "{q}: ", "document": "", "sts": "x"}, {"query": "{{q}}: {text}", "document": "{text}"}),
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
        ({"clustering": "cluster: "}, {}),
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


@pytest.mark.parametrize("prompts", [{"query": 1}, ["query: "]])
def test_malformed(tmp_path: Path, prompts: Any) -> None:
    with pytest.raises(ConversionError, match="prompts must be an object"):
        stored_prompts(tmp_path, prompts)
