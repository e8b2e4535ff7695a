"""Where long texts are cut. No model: which cuts change no token is tested in test_tokenizer.py."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from edgeembed.engine.llama.text_pieces import LONGEST_RECURSION, LONGEST_RUN, PIECE_CHARACTERS, TextPieces


def pieces(model: str, splitter: str = "", spellings: Iterable[str] = (), defined: Iterable[str] = ()) -> TextPieces:
    keys = {f"tokenizer.ggml.{key}": "true" for key in ("add_space_prefix", "remove_extra_whitespaces")}
    keys |= {"tokenizer.ggml.model": model, "tokenizer.ggml.pre": splitter}
    return TextPieces.of(keys.get, lambda: spellings, defined)


@pytest.mark.parametrize(
    ("model", "splitter", "longest"),
    [
        ("gpt2", "qwen2", 2 * PIECE_CHARACTERS),
        ("gpt2", "gpt-4o", LONGEST_RECURSION),
        ("gpt2", "gemma4", 2 * PIECE_CHARACTERS),
        ("t5", "default", 2 * PIECE_CHARACTERS),
        ("bert", "default", 2 * PIECE_CHARACTERS),
    ],
)
def test_a_text_is_cut_before_a_space_between_words(model: str, splitter: str, longest: int) -> None:
    text = "word  and\n\nword " * 40_000
    found = list(pieces(model, splitter).split(text))
    assert "".join(found) == text
    assert len(found) > 5 and max(map(len, found)) <= longest
    assert all(piece[0] == " " and piece[1:2].strip() for piece in found[1:] if model != "bert")


@pytest.mark.parametrize(
    ("model", "splitter", "longest"),
    [("gpt2", "qwen2", LONGEST_RUN), ("gpt2", "gpt-4o", LONGEST_RECURSION), ("bert", "", 10**6)],
)
def test_a_run_without_such_a_place_has_a_longest_length(model: str, splitter: str, longest: int) -> None:
    found = list(pieces(model, splitter).split("a" * 10**6))
    assert {len(piece) for piece in found[:-1]} <= {longest} and len(found[0]) == longest


def test_an_unknown_splitter_is_not_relied_on() -> None:
    found = list(pieces("gpt2", "superbpe").split("a b " * 100_000))
    assert [len(piece) for piece in found] == [LONGEST_RUN, 400_000 - LONGEST_RUN]


def test_no_cut_is_made_where_a_token_may_cross_it() -> None:
    text = "a b> c " * 20_000
    found = list(pieces("gpt2", "gemma4", spellings=["a\u2581b", "\u2581c"]).split(text))
    assert len(found) > 1 and not any(piece.startswith(" b") for piece in found)
    (first, *_) = pieces("gpt2", "qwen2", defined=["x y"]).split(text * 3)
    assert len(first) == LONGEST_RUN, "cuts are made nowhere when a defined token may be cut"
    assert len(next(pieces("gpt2", "qwen2", defined=["  ", "<table>"]).split(text))) < LONGEST_RUN


def test_the_space_that_a_tokenizer_adds_itself_is_left_out() -> None:
    text = "word and " * 20_000
    first, second, *_ = pieces("llama").split(text)
    assert not second.startswith(" ") and text.startswith(f"{first} {second}")
