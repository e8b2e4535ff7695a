"""Two embeddings share a key only when they are the same."""

from __future__ import annotations

import itertools

from edgeembed.cache import KeyMaker
from edgeembed.text import Prompt

MODEL = "5" * 64


def test_every_field_and_every_boundary_counts() -> None:
    pieces = ("", "a", "ab", "b", "bc", "abc", "a\0b", "\0")
    keys = [
        KeyMaker(digest, pooling).key(prompt, text)
        for digest, pooling, prompt, text in itertools.product(pieces, pieces, pieces, pieces)
    ]
    assert len(set(keys)) == len(pieces) ** 4
    assert {len(key) for key in keys} == {32}


def test_the_same_text_has_the_same_key_in_the_next_run() -> None:
    """Fixed bytes: who changes what goes into a key must change SCHEMA, and then this."""
    key = KeyMaker(MODEL, "mean").key(Prompt("query: {text}", "").identity, "größe 🙂")
    assert key.hex() == "58c8afcdbac26ad219cb05a30a49df477e46c394f2722a4efa8da5bc8139bbc7"


def test_a_key_maker_keeps_nothing_of_the_last_text() -> None:
    keys = KeyMaker(MODEL, "mean")
    first = keys.key("{text}", "one")
    keys.key("{text}", "two")
    assert keys.key("{text}", "one") == first
