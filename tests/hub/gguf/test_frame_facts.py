"""What llama.cpp takes of a file, and what is used instead of it."""

from __future__ import annotations

import pytest

from edgeembed.hub.gguf.file import Scalar
from edgeembed.hub.gguf.frame_facts import FrameFacts
from edgeembed.hub.gguf.frame_tokens import FrameTokens

CAUSAL, ADDS_FIRST = "qwen2.attention.causal", "tokenizer.ggml.add_bos_token"
FIRST, LAST = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"


def facts(**values: Scalar) -> FrameFacts:
    keys = {"architecture": "general.architecture", "model": "tokenizer.ggml.model", "first": FIRST, "adds": ADDS_FIRST}
    tokens = FrameTokens(3, {"<s>": 1, "</s>": 2}, {}, 0)
    return FrameFacts({keys[name]: value for name, value in values.items()}, {}, tokens)


def test_a_key_that_the_file_lacks_has_llama_cpps_value() -> None:
    file = facts(architecture="qwen2", model="llama")
    assert (file.value(FIRST), file.value(LAST), file.value(ADDS_FIRST), file.value(CAUSAL)) == (1, 2, True, True)
    assert file.special_tokens() == ("<s>", None)
    assert facts(architecture="qwen2", model="llama", first=2, adds=True).special_tokens() == ("</s>", None)


@pytest.mark.parametrize(
    ("key", "value", "mended"),
    [
        (FIRST, 2, None),
        (ADDS_FIRST, True, None),
        (CAUSAL, True, None),
        (FIRST, 1, "tokenizer.ggml.bos_token_id is taken to be 1; the file says 2"),
        (CAUSAL, False, "qwen2.attention.causal is taken to be false; the file does not say"),
        (ADDS_FIRST, 1, "tokenizer.ggml.add_bos_token is taken to be 1; the file does not say"),
    ],
)
def test_only_another_value_is_mended(key: str, value: Scalar, mended: str | None) -> None:
    file = facts(architecture="qwen2", model="llama", first=2)
    file.expect(key, value)
    assert (file.mended, file.mends) == (([], {}) if mended is None else ([mended], {key: value}))
    assert file.value(key) is value
