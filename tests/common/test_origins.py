"""Where the characters of a changed text come from."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from edgeembed.common.normal_forms import normalize
from edgeembed.common.origins import Origins, compose_with_origins
from tests.engine.llama.hard_texts import HARD_TEXTS, fuzzed_texts


def parts(text: str) -> list[tuple[str, str]]:
    """Return each composed character with the part of the text that it comes from."""
    composed, origins = compose_with_origins(text)
    return [(char, text[begin:end]) for char, begin, end in zip(composed, origins.begins, origins.ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ab", [("a", "a"), ("b", "b")]),
        ("xe\u0301y", [("x", "x"), ("é", "e\u0301"), ("y", "y")]),
        ("x\u0338y", [("x", "x"), ("\u0338", "\u0338"), ("y", "y")]),
        ("\u1112\u1161\u11ab글", [("한", "\u1112\u1161\u11ab"), ("글", "글")]),
        ("中\u212b文", [("中", "中"), ("Å", "\u212b"), ("文", "文")]),
        ("q\u0301\u0323", [("q", "q\u0301\u0323"), ("\u0323", "q\u0301\u0323"), ("\u0301", "q\u0301\u0323")]),
    ],
)
def test_a_composed_character_comes_from_all_that_it_is_made_of(text: str, expected: list[tuple[str, str]]) -> None:
    assert parts(text) == expected


def test_every_part_is_composed_to_its_characters() -> None:
    for text in [*HARD_TEXTS.values(), *fuzzed_texts(300)]:
        apart = unicodedata.normalize("NFD", text)
        composed, origins = compose_with_origins(apart)
        assert composed == normalize("NFC", apart)
        assert len(origins) == len(composed)
        made: dict[tuple[int, int], str] = {}
        for char, begin, end in zip(composed, origins.begins.tolist(), origins.ends.tolist(), strict=True):
            made[begin, end] = made.get((begin, end), "") + char
        assert all(normalize("NFC", apart[begin:end]) == chars for (begin, end), chars in made.items())


def test_parts_of_a_changed_text_are_found_in_the_original() -> None:
    # "a\0e\u0301f" without its second character, composed: "aéf"
    origins = compose_with_origins("ae\u0301f")[1].behind(Origins.same(5).without([1]))
    spans = np.array([(0, 1), (1, 3), (1, 1), (-1, -1), (0, 3)], dtype=np.int32)
    assert origins.of(spans).tolist() == [[0, 1], [2, 5], [1, 1], [-1, -1], [0, 5]]
    within = origins.within(2, 5, 1)  # the same with "p:" in front and "s" behind
    assert within.of(np.array([(0, 2), (2, 3), (4, 6)], dtype=np.int32)).tolist() == [[0, 2], [2, 3], [6, 8]]
