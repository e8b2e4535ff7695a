"""The prompts of a checkpoint, as templates.

Source: sentence-transformers' config_sentence_transformers.json, key `prompts`: name -> prefix of a text.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json

CONFIG_FILE = "config_sentence_transformers.json"

# The names that SentenceTransformer.encode_query and encode_document try, in this order.
_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}

# Prompts with a description of the task in the middle, which a request may replace: those of Qwen3-Embedding (also
# E5-mistral and GTE-Qwen2) and of EmbeddingGemma.
_INSTRUCTIONS = (
    re.compile(r"(?P<before>Instruct: )(?P<instruction>[^\n]+)(?P<after>\nQuery: ?)"),
    re.compile(r"(?P<before>task: )(?P<instruction>[^\n|]+)(?P<after> \| query: ?)"),
)


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts of a sentence-transformers checkpoint as templates for `str.format`.

    The keys are `query` and `document` (templates with "{text}" and "{instruction}") and `instruction` (its default);
    empty if the checkpoint has no prompts for queries and documents. Other prompts (clustering, ...) and
    `default_prompt_name` are ignored. Raises ConversionError.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return {}
    stored = read_json(file).get("prompts") or {}
    if not isinstance(stored, dict) or not all(isinstance(text, str) for text in stored.values()):
        raise ConversionError(f"{file}: prompts must be an object that maps names to texts")
    found = {}
    for kind, names in _NAMES.items():
        for name in names:
            if name in stored:
                found[kind] = stored[name]
                break
    # sentence-transformers writes empty prompts for both if a model uses none.
    if not any(found.values()):
        return {}
    templates = {kind: _escape(prompt) + "{text}" for kind, prompt in found.items()}
    for pattern in _INSTRUCTIONS:
        if match := pattern.fullmatch(found.get("query", "")):
            templates["query"] = f"{_escape(match['before'])}{{instruction}}{_escape(match['after'])}{{text}}"
            templates["instruction"] = match["instruction"]
    return templates


def _escape(text: str) -> str:
    """Return the template that produces this text."""
    return text.replace("{", "{{").replace("}", "}}")
