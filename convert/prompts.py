"""What a checkpoint says is to be put around a text, as our templates.

Source: sentence-transformers' config_sentence_transformers.json, key `prompts`: name -> what is put in front of a text.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json

CONFIG_FILE = "config_sentence_transformers.json"

# What SentenceTransformer.encode_query and encode_document look for, the first one found.
_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}

# Prompts whose middle names the task, so that a request can bring its own: Qwen3-Embedding's and its like (E5-mistral,
# GTE-Qwen2), and EmbeddingGemma's.
_INSTRUCTIONS = (
    re.compile(r"(?P<before>Instruct: )(?P<instruction>[^\n]+)(?P<after>\nQuery: ?)"),
    re.compile(r"(?P<before>task: )(?P<instruction>[^\n|]+)(?P<after> \| query: ?)"),
)


def read_prompts(folder: Path) -> dict[str, str]:
    """Read the prompts of a sentence-transformers checkpoint as templates of `str.format`.

    The keys are `query` and `document` ("{text}", "{instruction}") and `instruction`, the default one; none where the
    checkpoint has no prompts for queries and documents. Prompts of other names (clustering, ...) and
    `default_prompt_name` have no place in them. Raises ConversionError.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return {}
    stored = read_json(file).get("prompts") or {}
    if not isinstance(stored, dict) or not all(isinstance(text, str) for text in stored.values()):
        raise ConversionError(f"{file}: prompts is not an object of name to text")
    found = {}
    for kind, names in _NAMES.items():
        for name in names:
            if name in stored:
                found[kind] = stored[name]
                break
    # Empty for both is what sentence-transformers writes for a model that takes no prompts at all.
    if not any(found.values()):
        return {}
    templates = {kind: _escape(prompt) + "{text}" for kind, prompt in found.items()}
    for pattern in _INSTRUCTIONS:
        if match := pattern.fullmatch(found.get("query", "")):
            templates["query"] = f"{_escape(match['before'])}{{instruction}}{_escape(match['after'])}{{text}}"
            templates["instruction"] = match["instruction"]
    return templates


def _escape(text: str) -> str:
    """Give the template that stands for this text."""
    return text.replace("{", "{{").replace("}", "}}")
