"""Two embeddings share a key only when they are the same."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc

import pytest

from edgeembed.cache import KeyMaker
from edgeembed.cache.key import SCHEMA, may_hold_long_word
from edgeembed.models.prompts import Prompt

MODEL = "5" * 64


def test_every_field_and_every_boundary_counts() -> None:
    pieces = ("", "a", "ab", "b", "bc", "abc", "a\0b", "\0")
    keys = [
        KeyMaker(digest, task).key(prompt, text, rule)
        for digest, task, prompt, text, rule in itertools.product(pieces, pieces, pieces, pieces, ("", "a"))
    ]
    assert len(set(keys)) == 2 * len(pieces) ** 4
    assert {len(key) for key in keys} == {32}


def test_the_same_text_has_the_same_key_in_the_next_run() -> None:
    """Fixed bytes: a change of what goes into a key needs a new SCHEMA, and a new value here."""
    key = KeyMaker(MODEL, "embed").key(Prompt("query: {text}", "").identity, "größe 🙂")
    assert key.hex() == "1d284e81a56e2d8ed51e349045ef1329c017bf4c45155b0765b6635e825a142f"


def test_keys_do_not_depend_on_earlier_texts() -> None:
    keys = KeyMaker(MODEL, "embed")
    first = keys.key("{text}", "one")
    keys.key("{text}", "two")
    for number in range(1000):  # more prompts than it remembers
        keys.key(f"{number}: {{text}}", "two")
    assert keys.key("{text}", "one") == first


def test_long_prompts_are_not_kept() -> None:
    """The query of a reranker is part of its prompt, and may be as long as a request."""
    keys = KeyMaker(MODEL, "rerank")
    tracemalloc.start()
    try:
        for number in range(12):
            assert keys.keys(f"{number} {'q' * 2**20}", ["one", "two"]) != keys.keys(f"{number}", ["one", "two"])
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["a" * 101, "see data:image/png;base64," + "A1b2" * 30, "ä" * 34, "각" * 34, "ok " * 6000])
def test_rows_of_texts_with_long_words_are_not_those_of_earlier_versions(text: str) -> None:
    """Earlier versions, which had the same SCHEMA, cut words that WordPiece reads as unknown ones into pieces."""
    assert may_hold_long_word(text)
    assert KeyMaker(MODEL, "embed").key("{text}", text) != key_of_earlier_versions("{text}", text)


@pytest.mark.parametrize(
    "text", ["short", "a" * 100, "the quick brown fox " * 50, "größe " * 50, "我来到北京清华大学，" * 50]
)
def test_rows_of_other_texts_are_still_found(text: str) -> None:
    assert not may_hold_long_word(text)
    assert KeyMaker(MODEL, "embed").key("{text}", text) == key_of_earlier_versions("{text}", text)


def key_of_earlier_versions(prompt: str, text: str) -> bytes:
    fields = (SCHEMA, MODEL.encode(), b"embed", prompt.encode(), b"", text.encode())
    return hashlib.sha256(b"".join(len(field).to_bytes(8, "little") + field for field in fields)).digest()


def test_rows_of_a_mended_file_are_others() -> None:
    mended = KeyMaker(MODEL, "embed", ("tokenizer.ggml.add_eos_token=True",))
    assert mended.key("{text}", "a") != KeyMaker(MODEL, "embed").key("{text}", "a")
