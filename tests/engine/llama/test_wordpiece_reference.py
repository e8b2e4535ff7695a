"""The tokens of a real WordPiece model, against the tokenizers library with the model's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from edgeembed.engine.interface import Limits, Prompted
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker.reader import CutReading, TextReader
from tests.engine.llama.hard_texts import HARD_TEXTS, fuzzed_texts
from tests.engine.worker.worker_process import worker_options

Reference = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def model(minilm: Callable[[str], Path]) -> LlamaModel:
    return LlamaModel(worker_options(minilm("Q8_0")))


@pytest.fixture(scope="module")
def reference(minilm_checkpoint: Path) -> Reference:
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm_checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # the name of a special token inside a text is text
    return lambda text: tokenizer.encode(text).ids


@pytest.mark.parametrize("name", HARD_TEXTS)
def test_tokens_are_those_of_the_reference(model: LlamaModel, reference: Reference, name: str) -> None:
    assert model.tokenize(HARD_TEXTS[name]).tolist() == reference(HARD_TEXTS[name])


def test_tokens_of_fuzzed_texts_are_those_of_the_reference(model: LlamaModel, reference: Reference) -> None:
    wrong = [ascii(text) for text in fuzzed_texts(2000) if model.tokenize(text).tolist() != reference(text)]
    assert wrong == []


def test_tokens_stand_for_the_parts_of_the_text_that_the_reference_finds(model: LlamaModel, minilm_checkpoint: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(minilm_checkpoint / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    for text in [*HARD_TEXTS.values(), *fuzzed_texts(1000)]:
        tokens, expected = model.tokenize(text), library.encode(text)
        spans, places = model.spans(text, tokens).tolist(), map(list, expected.offsets)
        named = expected.special_tokens_mask
        assert spans == [[-1, -1] if special else place for place, special in zip(places, named, strict=True)], ascii(text)


def test_a_text_of_long_words_is_short(model: LlamaModel) -> None:
    assert len(model.tokenize("a" * 101)) == 3
    assert len(model.tokenize(HARD_TEXTS["base64"])) < 20
    # Cutting counts the same tokens.
    reader = TextReader(model, context_tokens=model.info.context_tokens, vocabulary=model.vocabulary.size)
    reading = reader.read_within(Prompted("", "x" * 101 + " fox" * 600, "", Limits(10, "end")))
    assert isinstance(reading, CutReading) and (len(reading.tokens), reading.full) == (10, 603)
    assert model.vocabulary.unknown == reading.tokens[1]
