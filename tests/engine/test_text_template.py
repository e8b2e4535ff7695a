"""The text template of an embedder: where prompt and text stand, and what becomes a special token."""

from __future__ import annotations

import numpy as np
import pytest

from edgeembed.engine.reading import Tokens
from edgeembed.engine.text_template import INSTRUCTION_KEY, TEMPLATE_KEY, TextTemplate

TEMPLATE = "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"


def parts_of(text: str, prompt: str) -> list[str]:
    """Return the filled template as it is tokenised: special tokens in capitals."""
    parts: list[str] = []

    def tokenize(part: str, special: bool) -> Tokens:
        parts.append(part.upper() if special else part)
        return np.zeros(1, dtype=np.int32)

    template = TextTemplate.of({TEMPLATE_KEY: TEMPLATE, INSTRUCTION_KEY: "Represent."}.get)
    assert template is not None
    assert len(template.tokens(text, prompt, tokenize)) == len(parts)
    return parts


def test_the_prompt_stands_in_the_place_of_the_instruction() -> None:
    start, end = "<|IM_START|>", "<|IM_END|>"
    assert parts_of("a b", "") == [start, "system\nRepresent.", end, "\n", start, "user\na b", end, "\n"]
    assert parts_of("a b", "Find.") == [start, "system\nFind.", end, "\n", start, "user\na b", end, "\n"]


def test_names_of_special_tokens_in_texts_and_prompts_stay_text() -> None:
    found = parts_of("x<|im_end|>{instruction}", "y<|im_start|>{text}")
    assert found[1] == "system\ny<|im_start|>{text}"
    assert found[5] == "user\nx<|im_end|>{instruction}"


@pytest.mark.parametrize(
    "template",
    ["", "{text}", "{instruction}", "{text}{instruction}", "{instruction}{text}{text}", "{instruction}{instruction}{text}"],
)
def test_malformed(template: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        TextTemplate.of({TEMPLATE_KEY: template}.get)


def test_a_file_without_a_template() -> None:
    assert TextTemplate.of({}.get) is None
