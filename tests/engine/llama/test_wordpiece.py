"""BERT's words, against the tokenizers library: the models were trained with its tokens."""

from __future__ import annotations

import re
import unicodedata
from itertools import product

import pytest
from tokenizers import normalizers, pre_tokenizers

from edgeembed.engine.llama.bert_characters import MISREAD, CharacterSet
from edgeembed.engine.llama.wordpiece import LONGEST_WORD, BertWords
from tests.engine.llama.hard_texts import HARD_TEXTS, fuzzed_texts

MISREAD_BY_LLAMA_CPP = CharacterSet(MISREAD)
CASES = list(product([True, False], repeat=2))


def expected_words(text: str, *, lowercase: bool, strip_accents: bool) -> list[str | None]:
    """Return the words of BERT's tokenizer; None for one that it does not look up, or that no vocabulary has."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))
    return [
        None if len(word) > LONGEST_WORD or any(ord(letter) in MISREAD_BY_LLAMA_CPP for letter in word) else word
        for word, _ in words
    ]


def found_words(text: str, *, lowercase: bool, strip_accents: bool) -> list[str | None]:
    """Return the words that llama.cpp gets, which itself lower-cases and splits ASCII."""
    segments = BertWords(lowercase=lowercase, strip_accents=strip_accents).segments(text)
    if segments == text and text.isascii():
        return [*re.findall(r"[a-zA-Z0-9]+|[^a-zA-Z0-9\s]", text.lower() if lowercase else text)]
    words: list[str | None] = []
    for segment in [segments] if isinstance(segments, str) else segments:
        words += [None] if segment is None else segment.split()
    return words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ASCII stays AS IT IS", "plain ASCII stays AS IT IS"),  # llama.cpp lower-cases it
        ("Crème brûlée", "creme brulee"),
        ("e\u0301", "e"),
        ("한", "\u1112\u1161\u11ab"),  # all three letters of the syllable
        ("निकलती", "न" + "ि" + "कलत" + "ी"),  # spacing vowel signs stay
        ("हिन्दी", "ह" + "ि" + "नद" + "ी"),  # the virama, a non-spacing mark, goes
        ("ΛΌΓΟΣ", "λογοσ"),  # no final sigma
        ("İ", "i"),
        ("颜色 🙂", " 颜  色  🙂"),
        ("a\x0bb\u200bc\u00a0d", "abc d"),
    ],
)
def test_texts_are_normalized(text: str, expected: str) -> None:
    assert BertWords(lowercase=True, strip_accents=True).segments(text) == expected


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "expected"),
    [(False, False, "É İ Ж"), (False, True, "E I Ж"), (True, False, "é i\u0307 ж"), (True, True, "e i ж")],
)
def test_case_and_accents_are_kept_where_the_model_keeps_them(lowercase: bool, strip_accents: bool, expected: str) -> None:
    assert BertWords(lowercase=lowercase, strip_accents=strip_accents).segments("É İ Ж") == expected


def test_a_word_that_is_too_long_is_unknown() -> None:
    words = BertWords(lowercase=True, strip_accents=True)
    assert words.segments("a" * 100) == "a" * 100
    assert words.segments("a" * 101) == [None]
    assert words.segments(f"x {'a' * 101} {'b' * 101} y z.{'c' * 101}") == ["x", None, None, "y z .", None]
    assert words.segments("ab" * 51 + "." + "a" * 100) == [None, ". " + "a" * 100]
    assert words.segments("각" * 33) == "\u1100\u1161\u11a8" * 33
    assert words.segments("각" * 34) == [None]  # as letters of the alphabet, 102
    assert BertWords(lowercase=True, strip_accents=True, longest_word=5).segments("abcde abcdef") == ["abcde", None]


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, True), (False, False)])
def test_every_character_is_read_as_by_the_reference(lowercase: bool, strip_accents: bool) -> None:
    letters = [chr(code) for code in (*range(1, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200))]
    # Which of the newest letters have a small form, or parts, depends on the version of Python.
    letters = [letter for letter in letters if unicodedata.category(letter) != "Cn" and letter != "\U00011938"]
    for begin in range(0, len(letters), 4096):
        text = " ".join(f"a{letter}b {letter}" for letter in letters[begin : begin + 4096])
        expected = expected_words(text, lowercase=lowercase, strip_accents=strip_accents)
        assert found_words(text, lowercase=lowercase, strip_accents=strip_accents) == expected


@pytest.mark.parametrize(("lowercase", "strip_accents"), CASES)
def test_texts_are_read_as_by_the_reference(lowercase: bool, strip_accents: bool) -> None:
    for text in (*HARD_TEXTS.values(), *fuzzed_texts(300)):
        expected = expected_words(text, lowercase=lowercase, strip_accents=strip_accents)
        assert found_words(text, lowercase=lowercase, strip_accents=strip_accents) == expected
