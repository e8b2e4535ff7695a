"""What a tokenizer's post-processor puts around one text and around a pair. Format: tokenizer.json, `post_processor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError

Template = Sequence[int | str]
"""Ids of special tokens, and "A" and "B" where the texts go."""


def read_templates(content: Mapping[str, Any], file: Path) -> tuple[Template, Template | None]:
    """Give the templates of one text and of a pair; None where the file says nothing of pairs.

    Token types are left out. Raises ConversionError when the post-processor is of an unknown kind or broken.
    """
    processor = _object(content.get("post_processor"))
    kind = processor.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        first, last = (_pair_id(processor.get(key), file) for key in ("cls", "sep"))
        between = [last] if kind == "BertProcessing" else [last, last]
        return [first, "A", last], [first, "A", *between, "B", last]
    if kind != "TemplateProcessing":
        raise ConversionError(f"{file}: llama.cpp cannot do what the post-processor {kind!r} does")
    tokens = _object(processor.get("special_tokens"))
    single = _template(processor.get("single"), tokens, file)
    return single, _template(processor["pair"], tokens, file) if processor.get("pair") else None


def read_segments(content: Mapping[str, Any], file: Path) -> list[int]:
    """Give the token type of each part of the pair's template, in the order of `read_templates`; empty without one.

    Raises ConversionError as `read_templates` does.
    """
    _, pair = read_templates(content, file)
    processor = _object(content.get("post_processor"))
    if pair is None:
        return []
    if processor.get("type") != "TemplateProcessing":
        # BertProcessing gives the second text type 1, RobertaProcessing gives type 0 throughout.
        second = pair.index("B") if processor.get("type") == "BertProcessing" else len(pair)
        return [int(number >= second) for number in range(len(pair))]
    found: list[int] = []
    tokens = _object(processor.get("special_tokens"))
    for part in processor["pair"]:
        ((kind, value),) = part.items()
        number = value.get("type_id", 0)
        if not isinstance(number, int):
            raise ConversionError(f"{file}: the post-processor has the token type {number!r}")
        found.extend([number] * (1 if kind == "Sequence" else len(tokens[value["id"]]["ids"])))
    return found


def _template(parts: Any, tokens: Mapping[str, Any], file: Path) -> Template:
    found: list[int | str] = []
    for part in parts if isinstance(parts, list) else []:
        if "Sequence" in _object(part):
            found.append(str(_object(part["Sequence"]).get("id")))
            continue
        name = str(_object(_object(part).get("SpecialToken")).get("id"))
        ids = _object(tokens.get(name)).get("ids")
        if not isinstance(ids, list) or not all(isinstance(number, int) and number >= 0 for number in ids):
            raise ConversionError(f"{file}: the post-processor does not say which ids {name!r} stands for")
        found.extend(ids)
    return found


def _pair_id(value: Any, file: Path) -> int:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int) and value[1] >= 0:
        return value[1]
    raise ConversionError(f"{file}: the post-processor names no id in {value!r}")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
