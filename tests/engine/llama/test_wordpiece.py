"""BERT's text normalisation, where llama.cpp's is wrong. Expected strings are those of the tokenizers library."""

from __future__ import annotations

import pytest

from edgeembed.engine.llama.wordpiece import strip_accents


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ASCII stays AS IT IS", "plain ASCII stays AS IT IS"),  # llama.cpp lower-cases it
        ("Crème brûlée", "Creme brulee"),
        ("e\u0301", "e"),
        ("한", "\u1112\u1161\u11ab"),  # all three letters of the syllable
        ("निकलती", "न" + "ि" + "कलत" + "ी"),  # spacing vowel signs stay
        ("हिन्दी", "ह" + "ि" + "नद" + "ी"),  # the virama, a non-spacing mark, goes
        ("ΛΌΓΟΣ", "λογοσ"),  # no final sigma
        ("İ", "i"),
        ("颜色 🙂", "颜色 🙂"),
    ],
)
def test_non_spacing_marks_are_removed_and_letters_kept(text: str, expected: str) -> None:
    assert strip_accents(text, lowercase=True) == expected


def test_a_cased_model_keeps_upper_case() -> None:
    assert strip_accents("ÉCOLE Ж", lowercase=False) == "ECOLE Ж"
