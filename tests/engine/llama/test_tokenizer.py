"""Tokens of all families, against the tokenizers library with the checkpoint's tokenizer.json, and tokens of long texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders

from edgeembed.engine.llama import text_pieces, tokenizer
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.inference.cleaning import clean
from tests.convert.tiny_encoders import make_tiny_xlm_roberta
from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert, make_tiny_nomic_bert
from tests.convert.without_proof import convert_checkpoint
from tests.engine.llama.hard_texts import HARD_TEXTS, fuzzed_texts
from tests.engine.worker.worker_process import worker_options

pytestmark = pytest.mark.model

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "gemma": make_gemma_checkpoint,
    "modern-bert": make_tiny_modern_bert,
    "nomic-bert": make_tiny_nomic_bert,
    "qwen3": make_qwen3_checkpoint,
    "xlm-roberta": make_tiny_xlm_roberta,
}
DIFFERENT = {
    # Unigram finds the names of special tokens in texts, which are plain text here. The library's table of replacements is
    # applied to what it takes for one letter, and drops marks that are not in their canonical order.
    "xlm-roberta": {"names of tokens", "marks"},
    "nomic-bert": {"names of tokens"},  # the tiny vocabulary has llama.cpp's mark of a word's beginning as a letter
}
PROSE = "The quick brown fox, said the 42nd king's son, jumps\n\n  over   the lazy dog. 我来到北京。 Größe <table> naïve! "


class Family:
    """A model and the reference for its tokens."""

    def __init__(self, name: str, folder: Path) -> None:
        checkpoint = FAMILIES[name](folder / "checkpoint")
        convert_checkpoint(checkpoint, folder / "tiny.gguf", quantization="F32")
        self.model = LlamaModel(worker_options(folder / "tiny.gguf"))
        self.name = name
        self.different = DIFFERENT.get(name, set())
        reference = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        reference.no_truncation()
        reference.no_padding()
        reference.encode_special_tokens = True  # the name of a special token inside a text is text
        if name == "gemma":  # the tiny checkpoint has no decoder; this is the model's own
            reference.decoder = decoders.Sequence(
                [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
            )
        self.library = reference
        self.reference: Callable[[str], list[int]] = lambda text: reference.encode(text).ids

    def tokens(self, text: str) -> list[int]:
        return self.model.tokenize(text).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    made = Family(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.model.close()


def test_tokens_are_those_of_the_reference(family: Family) -> None:
    texts = {name: text for name, text in HARD_TEXTS.items() if name not in family.different}
    assert [name for name, text in texts.items() if family.tokens(text) != family.reference(text)] == []
    assert family.tokens(PROSE * 20) == family.reference(PROSE * 20)


def test_tokens_of_fuzzed_texts_are_those_of_the_reference(family: Family) -> None:
    fuzzed = [text for text in fuzzed_texts(500) if "\u2581" not in text]
    if "marks" in family.different:
        fuzzed = [text for text in fuzzed if not any(map(unicodedata.combining, text))]
    assert len(fuzzed) > 200
    assert [ascii(text) for text in fuzzed if family.tokens(text) != family.reference(text)] == []


def test_tokens_stand_for_the_parts_of_the_text_that_the_reference_finds(family: Family) -> None:
    different, total = [], 0
    for text in map(clean, [PROSE * 3, *HARD_TEXTS.values(), *fuzzed_texts(400)]):
        tokens, expected = family.model.tokenize(text), family.library.encode(text)
        if tokens.tolist() != expected.ids:
            continue
        spans = family.model.spans(text, tokens).tolist()
        for span, place, special in zip(spans, expected.offsets, expected.special_tokens_mask, strict=True):
            assert not special or span == [-1, -1]
            total += not special
            if not special and tuple(span) != place:
                different.append((ascii(text), span, place))
    # XLM-RoBERTa's table replaces some characters together with the marks behind them.
    assert total > 10_000
    assert len(different) <= (total * 0.0001 if family.name == "xlm-roberta" else 0), different[:5]


def test_ids_are_decoded_as_by_the_reference(family: Family) -> None:
    for text in map(clean, [PROSE, "hello world", " hello", *HARD_TEXTS.values(), *fuzzed_texts(200)]):
        ids = family.reference(text)
        for special in (True, False):
            got = family.model.vocabulary.decode(np.array(ids, dtype=np.int32), special=special)
            assert ascii(got) == ascii(family.library.decode(ids, skip_special_tokens=not special))


def test_tokens_of_pieces_are_those_of_the_whole(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [PROSE * 5, "  a" * 300, "a b " * 200, " " * 500, *HARD_TEXTS.values(), *fuzzed_texts(200, seed=2)]
    whole = [family.tokens(text) for text in texts]
    monkeypatch.setattr(text_pieces, "PIECE_CHARACTERS", 20)
    monkeypatch.setattr(tokenizer, "LONGEST_RECURSION", 20)
    family_pieces = [len(list(family.model._tokenizer._pieces.split(text))) for text in texts]
    assert family_pieces[0] > 5 and family_pieces[2] > 20
    assert [family.tokens(text) for text in texts] == whole


@pytest.mark.parametrize("at_start", [False, True])
def test_a_part_of_a_giant_text_has_the_tokens_at_its_end_or_beginning(
    family: Family, at_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_pieces, "PIECE_CHARACTERS", 20)
    monkeypatch.setattr(tokenizer, "LONGEST_RECURSION", 20)
    text = PROSE * 50
    part = family.model.shorten(text, 60, at_start=at_start)
    assert len(part) < len(text) // 4
    (begin, end), whole, found = family.model._tokenizer.frame, family.tokens(text), family.tokens(part)
    assert len(found) > 60
    if at_start:
        assert found[-(50 + len(end)) :] == whole[-(50 + len(end)) :]
    else:
        assert found[: 50 + len(begin)] == whole[: 50 + len(begin)]
    assert family.model.shorten(text, 10**6, at_start=at_start) == text


@pytest.mark.parametrize("text", ["  a" * 33_333, " " * 400_000, "\n" * 100_000, "a" * 300_000])
def test_texts_that_took_llama_cpp_time_with_the_square_of_their_length(family: Family, text: str) -> None:
    """Each took from 4 s to 27 s with one of these vocabularies; tokens of runs are those of shorter runs."""
    found = family.tokens(text)
    short = family.tokens(text[:3000])
    assert found[:20] == short[:20]
    assert len(found) <= len(text) + 4
