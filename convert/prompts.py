"""The prompts of a checkpoint, as templates.

Source: sentence-transformers' config_sentence_transformers.json, key `prompts`: name -> prefix of a text.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json

CONFIG_FILE = "config_sentence_transformers.json"

# By kind, in this order: the names that SentenceTransformer.encode_query and encode_document try, then those of
# EmbeddingGemma ("Retrieval-query", "STS"), harrier ("web_search_query"), jina ("retrieval.query", "text-matching",
# "nl2code_query"), nomic ("search_query") and stella ("s2p_query"), in lower case and with underscores.
_NAMES = {
    "query": ("query", "web_search_query", "retrieval_query", "search_query", "s2p_query", "retrieval", "nl2code_query"),
    "document": (
        "document", "passage", "corpus", "retrieval_document", "retrieval_passage", "search_document", "nl2code_document",
    ),
    "classification": ("classification",),
    "clustering": ("clustering",),
    "similarity": ("similarity", "sts", "sts_query", "text_matching", "semantic_similarity", "s2s_query"),
}  # fmt: skip

# Prompts with a description of the task in the middle, which a request may replace: those of Qwen3-Embedding (also
# E5-mistral and GTE-Qwen2) and of EmbeddingGemma.
_INSTRUCTIONS = (
    re.compile(r"(?P<before>Instruct: )(?P<instruction>[^\n]+)(?P<after>\nQuery: ?)"),
    re.compile(r"(?P<before>task: )(?P<instruction>[^\n|]+)(?P<after> \| query: ?)"),
)


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts of a sentence-transformers checkpoint as templates for `str.format`.

    The keys are `query`, `document`, `classification`, `clustering`, `similarity` and `default` (templates with "{text}" and
    "{instruction}") and `instruction` (its default); empty if the checkpoint has no prompts of these kinds. For others see
    `notes_on_prompts`. Raises ConversionError.
    """
    stored = _stored(folder)
    default = _default(folder, stored)
    found = {kind: stored[name] for kind, name in _names_of(stored).items()}
    # sentence-transformers writes empty prompts for both if a model uses none.
    if not any((*found.values(), default)):
        return {}
    templates = {kind: template_of(prompt) for kind, prompt in found.items()}
    if default:
        templates["default"] = template_of(default)
    for pattern in _INSTRUCTIONS:
        if match := pattern.fullmatch(found.get("query", "")):
            templates["query"] = f"{_escape(match['before'])}{{instruction}}{_escape(match['after'])}{{text}}"
            templates["instruction"] = match["instruction"]
            if default == found["query"]:
                templates["default"] = templates["query"]
    return templates


def notes_on_prompts(folder: Path) -> list[str]:
    """Return a sentence for each thing that the daemon does not do with the checkpoint's prompts."""
    stored = _stored(folder)
    notes = []
    used = {stored[name] for name in _names_of(stored).values()} | {_default(folder, stored)}
    # EmbeddingGemma has the same prompt under several names.
    if lost := [name for name, text in stored.items() if text and text not in used]:
        notes.append(
            "the checkpoint has prompts of other kinds, which clients must put before their texts: "
            f"{', '.join(map(repr, lost))} (see {CONFIG_FILE})"
        )
    return notes


def _default(folder: Path, stored: dict[str, str]) -> str:
    """Return the prompt that sentence-transformers puts before every text without one. Raises ConversionError."""
    file = folder / CONFIG_FILE
    name = read_json(file).get("default_prompt_name") if file.is_file() else None
    if name is not None and (not isinstance(name, str) or name not in stored):
        raise ConversionError(f"{file}: default_prompt_name = {name!r} is not the name of a prompt")
    return "" if name is None else stored[name]


def _stored(folder: Path) -> dict[str, str]:
    file = folder / CONFIG_FILE
    stored = (read_json(file).get("prompts") or {}) if file.is_file() else {}
    if not isinstance(stored, dict) or not all(isinstance(text, str) for text in stored.values()):
        raise ConversionError(f"{file}: prompts must be an object that maps names to texts")
    return stored


def _names_of(stored: dict[str, str]) -> dict[str, str]:
    """Return, by kind, the name of the prompt that is taken for it."""
    plain: dict[str, str] = {}
    for name in stored:
        plain.setdefault(re.sub(r"[-. ]", "_", name.lower()), name)
    found = {kind: next((plain[name] for name in names if name in plain), None) for kind, names in _NAMES.items()}
    return {kind: name for kind, name in found.items() if name is not None}


def template_of(prompt: str) -> str:
    """Return the template for a text with this prompt before it."""
    return _escape(prompt) + "{text}"


def _escape(text: str) -> str:
    """Return the template that produces this text."""
    return text.replace("{", "{{").replace("}", "}}")
