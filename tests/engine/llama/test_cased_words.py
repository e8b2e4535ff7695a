"""Words at changes of case, where llama.cpp's byte-level BPE splits otherwise than the pattern of the vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeembed.engine.llama.cased_words import CasedWords
from edgeembed.engine.reading import Tokens
from tests.convert.llama_vectors import open_llama
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.granite import WHOLE, cased_tokenizer_json, make_granite_97m


def by_bytes(text: str) -> Tokens:
    """Return the bytes of a text; 255 where llama.cpp would split capitals."""
    split = text.endswith("E")
    return np.array([*text.encode(), *([255] if split else [])], dtype=np.int32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("МосГорСуд", ["Мос", "Гор", "Суд"]),
        ("éABc", ["é", "ABc"]),
        ("日本МИР", ["日本", "МИР"]),
        ("日本МИРа x", "日本МИРа x"),
        ("И\u0306Й", ["И\u0306", "Й"]),
        ("d'ЖК's 1234!\n", "d'ЖК's 1234!\n"),
        ("a МосСуд и b", ["a Мос", "Суд и b"]),
        ("caféTest", ["café", "Test"]),
        ("naïve café", "naïve café"),
        ("The river, Der Fluß, Река.", "The river, Der Fluß, Река."),
        ("iPhoneTest", "iPhoneTest"),
    ],
)
def test_words(text: str, words: str | list[str]) -> None:
    assert CasedWords(by_bytes, list).split(text) == words


def test_a_text_with_too_many_places_is_left_alone() -> None:
    assert len(CasedWords(by_bytes, list).split("аБ" * 60)) == 61
    assert CasedWords(by_bytes, list).split("аБ" * 70) == "аБ" * 70


def test_capitals_that_llama_cpp_splits_become_ids() -> None:
    found = CasedWords(by_bytes, list).split("a ÉCOLE")
    assert found == ["a", *" ÉCOLE".encode()]


@pytest.mark.model
def test_ids_of_words_that_are_whole_pieces(tmp_path: Path) -> None:
    ids = {word: len(cased_tokenizer_json()["model"]["vocab"]) - len(WHOLE) + at for at, word in enumerate(WHOLE)}
    file = convert_checkpoint(make_granite_97m(tmp_path / "tiny"), tmp_path / "tiny.gguf", quantization="F32").path
    with open_llama(file) as llama:
        assert llama.tokenize("МосСуд")[-2] == ids["Суд"]
        assert ids["осС"] not in llama.tokenize("МосСуд")
        assert llama.tokenize("a ÉCOLE")[-2] == ids[" ÉCOLE"]
        assert llama.tokenize("ÉCOLE")[1] != ids["É"]
