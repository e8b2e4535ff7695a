"""Chunks: length, overlap and ends; no text is lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from edgeembed.inference.chunking import Chunk, Chunker, ChunkRules, WordTokens


def letters(words: Sequence[str]) -> list[int]:
    """Count a token for every four letters, as subword tokenizers do about."""
    return [-(-len(word.strip()) // 4) for word in words]


def chunks(text: str, tokens: int = 20, overlap: int = 5) -> list[Chunk]:
    return list(Chunker(ChunkRules(tokens, overlap), WordTokens(letters)).chunks(text))


PROSE = " ".join(
    random.Random(3).choices(["sea", "lighthouse", "wandering", "a", "of", "ship.", "storm,", "end.\n\n"], k=400)
)
UNSPACED = "東京は日本の首都であり世界最大級の都市です" * 40


@pytest.mark.parametrize(
    "text", [PROSE, UNSPACED, "x" * 5000, "  \n lead and tail \n"], ids=["prose", "no spaces", "a word", "short"]
)
def test_every_character_is_in_a_chunk_and_no_chunk_is_too_long(text: str) -> None:
    found = chunks(text)
    covered = {at for chunk in found for at in range(chunk.start, chunk.end)}
    assert {at for at, character in enumerate(text) if not character.isspace()} <= covered
    for chunk in found:
        assert 0 < -(-len(text[chunk.start : chunk.end].replace(" ", "").replace("\n", "")) // 4) <= 20


def test_chunks_overlap_by_at_most_the_requested_tokens() -> None:
    found = chunks(PROSE)
    for one, other in itertools.pairwise(found):
        shared = PROSE[other.start : one.end].split()
        assert shared, "nothing is shared"
        assert sum(letters(shared)) <= 5
    assert all(
        one.end <= other.start for one, other in zip(chunks(PROSE, overlap=0), chunks(PROSE, overlap=0)[1:], strict=False)
    )


def test_a_chunk_ends_at_a_nearby_end_of_a_sentence() -> None:
    text = "one two three four five six seven eight nine. ten eleven twelve thirteen fourteen"
    first = chunks(text, tokens=14, overlap=0)[0]
    assert text[first.start : first.end].endswith("nine.")


def test_the_end_of_a_paragraph_is_preferred_to_that_of_a_sentence() -> None:
    text = "aa bb cc dd ee ff gg hh ii\n\njj. kk ll mm nn oo"
    first = chunks(text, tokens=12, overlap=0)[0]
    assert text[first.start : first.end].endswith("ii")


def test_cutting_can_continue_after_any_chunk() -> None:
    found = chunks(PROSE)
    for index, chunk in enumerate(found):
        assert list(Chunker(ChunkRules(20, 5), WordTokens(letters)).chunks(PROSE, chunk.next)) == found[index + 1 :]


def test_white_space_alone_is_no_chunk() -> None:
    assert chunks(" \n\t ") == []
    assert chunks("") == []


@pytest.mark.parametrize("text", ["a" + " " * 200_000, " " * 200_000, "\n" * 200_000 + "x", ("a" + " " * 30_000) * 10])
def test_white_space_is_read_once(text: str) -> None:
    """Time with the square of it: an hour for the first text. And it is not kept with the words that are remembered."""
    counted: list[str] = []

    def count(words: Sequence[str]) -> list[int]:
        counted.extend(words)
        return letters(words)

    chunks = list(Chunker(ChunkRules(tokens=8, overlap=0), WordTokens(count)).chunks(text))
    assert all(len(word) < 100 for word in counted)
    assert " ".join(text[chunk.start : chunk.end] for chunk in chunks).split() == text.split()
    assert {word.strip() for word in WordTokens().unknown_in(text, 0, 150_000)} <= {"a", "x"}
