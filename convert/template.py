"""The templates of a tokenizer's post-processor, for one text and for a pair. Format: tokenizer.json, `post_processor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError

Template = Sequence[int | str]
"""Ids of special tokens, and "A" and "B" for the texts."""


def read_templates(content: Mapping[str, Any], file: Path) -> tuple[Template, Template | None]:
    """Return the templates for one text and for a pair, without token types; None if the file has none for pairs.

    Raises ConversionError if the type of the post-processor is unknown or its content malformed.
    """
    processor = _object(content.get("post_processor"))
    kind = processor.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        first, last = (_pair_id(processor.get(key), file) for key in ("cls", "sep"))
        between = [last] if kind == "BertProcessing" else [last, last]
        return [first, "A", last], [first, "A", *between, "B", last]
    if kind != "TemplateProcessing":
        raise ConversionError(f"{file}: the post-processor {kind!r} is not supported by llama.cpp")
    tokens = _object(processor.get("special_tokens"))
    single = _template(processor.get("single"), tokens, file)
    return single, _template(processor["pair"], tokens, file) if processor.get("pair") else None


def read_segments(content: Mapping[str, Any], file: Path) -> list[int]:
    """Return the token type of each part of the template for a pair, in the order of `read_templates`; empty without one.

    Raises ConversionError as `read_templates` does.
    """
    _, pair = read_templates(content, file)
    processor = _object(content.get("post_processor"))
    if pair is None:
        return []
    if processor.get("type") != "TemplateProcessing":
        # BertProcessing: the second text has type 1. RobertaProcessing: type 0 throughout.
        second = pair.index("B") if processor.get("type") == "BertProcessing" else len(pair)
        return [int(number >= second) for number in range(len(pair))]
    found: list[int] = []
    tokens = _object(processor.get("special_tokens"))
    for part in processor["pair"]:
        text = "Sequence" in part
        value = _object(part["Sequence" if text else "SpecialToken"])
        number = value.get("type_id", 0)
        if not isinstance(number, int):
            raise ConversionError(f"{file}: the post-processor has the token type {number!r}; expected an integer")
        found.extend([number] * (1 if text else len(tokens[str(value.get("id"))]["ids"])))
    return found


def _template(parts: Any, tokens: Mapping[str, Any], file: Path) -> Template:
    found: list[int | str] = []
    if not isinstance(parts, list):
        raise ConversionError(f"{file}: the post-processor's template is {parts!r}; expected a list")
    for part in parts:
        if "Sequence" in _object(part):
            found.append(str(_object(part["Sequence"]).get("id")))
            continue
        name = str(_object(_object(part).get("SpecialToken")).get("id"))
        ids = _object(tokens.get(name)).get("ids")
        if not isinstance(ids, list) or not all(isinstance(number, int) and number >= 0 for number in ids):
            raise ConversionError(f"{file}: the post-processor does not define the ids of {name!r}")
        found.extend(ids)
    return found


def _pair_id(value: Any, file: Path) -> int:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int) and value[1] >= 0:
        return value[1]
    raise ConversionError(f"{file}: the post-processor has {value!r}; expected a token and its id")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
