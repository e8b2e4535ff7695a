"""Long texts in windows, on the fake engine: what is computed, what is returned, and what an edited text costs."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from edgeembed.cache import VectorCache
from edgeembed.engine.interface import ModelInfo, Text, TokenWant
from edgeembed.errors import InputTooLongError, RequestError, RequestTooLargeError, TooManyTokensError
from edgeembed.hub.catalogue import Prompts
from edgeembed.inference import windows
from edgeembed.inference.requests import EmbedRequest, EmbedResult, LongText
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from tests.fakes import CONTEXT_TOKENS, SPECIAL_TOKENS, FakeEngine, fake_row, fake_service, whole_text

WORDS = [
    "sea",
    "ship",
    "storm",
    "lighthouse",
    "sand",
    "wave",
    "gull",
    "rock",
    "sail",
    "wind",
    "rope",
    "tide",
    "foam",
    "pier",
    "crew",
    "mast",
]


def prose(sentences: int, seed: int = 1) -> str:
    """Return text with sentences of 3 to 9 words."""
    dice = random.Random(seed)
    return " ".join(" ".join(dice.choices(WORDS, k=dice.randint(3, 9))).capitalize() + "." for _ in range(sentences))


def make(engine: FakeEngine | None = None, **options: object) -> tuple[EmbeddingService, FakeEngine]:
    engine = engine or FakeEngine()
    return fake_service(engine, VectorCache(None, memory_mib=8, disk_mib=0), **options), engine


async def embed(service: EmbeddingService, *texts: str, long_text: LongText = "mean", **more: object) -> EmbedResult:
    return await service.embed(EmbedRequest(texts, long_text=long_text, **more))  # type: ignore[arg-type]


def mean(parts: Sequence[str]) -> np.ndarray:
    """Return the unit mean of the rows of texts, weighted by their tokens."""
    weights = [len(part.split()) + SPECIAL_TOKENS for part in parts]
    row = np.average([fake_row(part).astype(np.float64) for part in parts], axis=0, weights=weights)
    return row / np.linalg.norm(row)


async def test_a_long_text_has_the_mean_of_its_windows_and_usage_counts_their_tokens() -> None:
    service, engine = make()
    text = prose(12)
    result = await embed(service, "short", text)
    parts = [part for part in engine.computed if part != "short"]
    assert len(parts) > 3
    assert np.allclose(result.vectors, [fake_row("short") / np.linalg.norm(fake_row("short")), mean(parts)], atol=1e-6)
    assert result.tokens == [1 + SPECIAL_TOKENS, sum(len(part.split()) + SPECIAL_TOKENS for part in parts)]
    assert result.cuts == []
    assert (result.texts, result.hits) == (1 + len(parts), 0)


async def test_windows_cover_the_text_overlap_and_end_with_sentences() -> None:
    service, _ = make()
    text = prose(40)
    result = await embed(service, text, long_text="chunks")
    assert result.windows is not None
    found = result.windows[0]
    assert found[0].start == 0 and found[-1].end == len(text)
    for one, other in itertools.pairwise(found):
        assert one.start < other.start <= one.end + 1 < other.end
    ends = [text[window.end - 1] == "." for window in found]
    assert sum(ends) >= 0.8 * len(ends)
    assert np.allclose([row.row.vector for row in found], [fake_row(text[row.start : row.end]) for row in found])


async def test_a_text_that_fits_is_computed_as_it_is() -> None:
    service, engine = make()
    fits = "  " + " ".join(["wave"] * (CONTEXT_TOKENS - SPECIAL_TOKENS)) + "\n"
    result = await embed(service, fits, "wave", long_text="chunks")
    assert engine.computed == [fits, "wave"]
    assert result.windows is not None
    assert [[(row.start, row.end) for row in rows] for rows in result.windows] == [[(0, len(fits))], [(0, 4)]]


async def test_a_short_text_is_not_even_tokenised() -> None:
    service, engine = make()
    await embed(service, "wave", "sand and sea")
    await embed(service, "rope")
    long = " ".join(["lighthouse"] * 15)  # only its tokens say that it fits
    await embed(service, long)
    read = len(engine.read)
    await embed(service, long)
    assert len(engine.read) == read, "its row is in memory, so it fits"
    assert engine.read[:1] == [long]


@pytest.mark.parametrize(
    "text",
    [
        prose(300),
        " ".join(f"The sea{day}." for day in range(900)),
        " ".join(f"word{number}" for number in range(2000)),
        "\n\n".join(prose(5, seed) for seed in range(60)),
    ],
    ids=["prose", "sentences of one length", "no sentences", "paragraphs"],
)
async def test_after_an_edit_only_a_few_windows_are_computed(text: str) -> None:
    """If ends were chosen by the distance from the beginning, all windows behind the edit would be others."""
    service, engine = make()
    first = await embed(service, text)
    computed = len(engine.computed)
    assert computed > 100
    middle = text.index(" ", len(text) // 2) + 1
    for number, edited in enumerate(
        ["New words came first. " + text, text[:middle] + "It was inserted. " + text[middle:], text + " The end."]
    ):
        before = len(engine.computed)
        result = await embed(service, edited)
        assert len(engine.computed) - before <= 5, number
        assert result.hits == result.texts - (len(engine.computed) - before)
        assert not np.allclose(result.vectors, first.vectors, atol=1e-9)


async def test_the_prompt_is_around_each_window() -> None:
    service, engine = make(prompts=Prompts(query="query: {text}", document="passage: {text}"))
    await embed(service, prose(12), input_type="document")
    assert len(engine.computed) > 3
    assert all(text.startswith("passage: ") and len(text.split()) <= CONTEXT_TOKENS - 2 for text in engine.computed)


async def test_offsets_are_those_of_the_text_as_it_was_sent() -> None:
    service, _ = make()
    text = prose(12).replace("wave", "wa\0ve").replace("storm", "sto\u0301rm")
    result = await embed(service, text, long_text="chunks")
    assert result.windows is not None
    for window in result.windows[0]:
        assert np.allclose(window.row.vector, fake_row(service._clean(text[window.start : window.end])))


@pytest.mark.parametrize(
    "text",
    [
        "wave " * 500,
        "東京は日本の首都であり世界最大級の都市です。" * 60,
        "東京は日本の首都であり世界最大級の都市です" * 60,
        "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย " * 40,
        "x" * 20_000,
        "!?" * 2000,
        "\n\n".join(["-", "word"] * 200) + " " * 10_000,
        "a\u0301" * 3000,
    ],
    ids=["no sentence end", "Chinese", "Chinese without ends", "Thai", "a giant word", "punctuation", "lines", "marks"],
)
async def test_no_text_is_lost_and_no_window_too_long(text: str) -> None:
    """With an engine whose tokens are four characters."""

    class Letters(FakeEngine):
        def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list:
            spread = [" ".join(whole_text(text)[at : at + 4] for at in range(0, len(whole_text(text)), 4)) for text in texts]
            words = ["w " * -(-len(whole_text(text).strip()) // 4) for text in texts]
            assert len(spread) == len(words)
            return super().tokenize(words, want)

    service, engine = make(Letters())
    result = await embed(service, text, long_text="chunks")
    assert result.windows is not None
    found = result.windows[0]
    covered = {at for window in found for at in range(window.start, window.end)}
    cleaned = service._clean(text)
    assert {at for at, character in enumerate(text) if not character.isspace()} <= covered
    assert all(-(-len(part.strip()) // 4) <= CONTEXT_TOKENS - SPECIAL_TOKENS for part in engine.computed), len(cleaned)


async def test_windows_are_divided_where_the_tokenizer_needs_more_tokens_than_for_the_words() -> None:
    class Doubling(FakeEngine):
        """Counts two tokens for each word of a text with several."""

        def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list:
            def read(text: Text) -> Text:
                words = whole_text(text).split()
                return " ".join([*words, *words]) if len(words) > 1 else whole_text(text)

            return super().tokenize([read(text) for text in texts], want)

    service, engine = make(Doubling())
    await embed(service, prose(20))
    assert all(2 * len(part.split()) + SPECIAL_TOKENS <= CONTEXT_TOKENS for part in engine.computed)
    assert set(" ".join(engine.computed).split()) == set(prose(20).split())


async def test_max_tokens_is_the_length_of_a_window_and_of_a_text_that_fits() -> None:
    service, engine = make()
    text = " ".join(["wave"] * 18)
    await embed(service, text)
    assert engine.computed == [text]
    await embed(service, text, lengths=Lengths("none", 19))
    assert all(len(part.split()) <= 17 for part in engine.computed[1:])
    assert len(engine.computed) == 3


async def test_a_prompt_that_leaves_no_room_is_an_error_as_without_windows() -> None:
    service, _ = make(prompts=Prompts(query="query: {text}", document="a b c d {text}"))
    with pytest.raises(InputTooLongError) as caught:
        await embed(service, "wave", prose(12), input_type="document")
    assert caught.value.param == "input[1]"
    assert "long_text" not in str(caught.value)


async def test_an_error_names_the_text_and_not_the_window() -> None:
    service, engine = make()
    engine.failing = lambda text: InputTooLongError("too long", tokens=21, limit=20) if text.startswith("late") else None
    with pytest.raises(InputTooLongError) as caught:
        await embed(service, prose(12), "late", prose(12, seed=2))
    assert caught.value.param == "input[1]"


async def test_a_text_that_was_cut_before_is_not_tokenised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service, engine = make()
    first = await embed(service, prose(40))
    read = len(engine.read)
    again = await embed(service, prose(40), "wave")
    assert (len(engine.read), again.hits) == (read, again.texts - 1)
    assert np.array_equal(first.vectors[0], again.vectors[0])
    await embed(service, prose(40), lengths=Lengths("none", 19))
    assert len(engine.read) > read, "another length has other windows"
    monkeypatch.setattr(windows, "MOST_WINDOWS", 4)
    with pytest.raises(RequestTooLargeError, match="more than 4 windows"):
        await embed(service, prose(40))


async def test_cached_windows_need_no_loaded_model() -> None:
    service, engine = make()
    await embed(service, prose(40), "wave")
    read = len(engine.read)
    [model] = service.registry.models
    await service.pool.unload(model)
    found = await embed(service, prose(40), "wave")
    assert found.hits == found.texts and len(engine.read) == read
    assert service.pool.slot_of(model) is None


async def test_windows_are_forgotten_when_they_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_REMEMBERED_BYTES", 2500)
    service, engine = make()
    texts = [prose(12, seed) for seed in range(10)]
    await embed(service, *texts)
    read = len(engine.read)
    await embed(service, texts[-1])
    assert len(engine.read) == read
    await embed(service, texts[0])
    assert len(engine.read) > read, "of ten texts with a few windows each, a few are remembered"


async def test_limits_of_a_request_hold_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    service, engine = make(max_request_tokens=100)
    with pytest.raises(TooManyTokensError):
        await embed(service, prose(40))
    assert engine.computed == []
    monkeypatch.setattr(windows, "MOST_NUMBERS", 16 * 3)
    service, engine = make()
    with pytest.raises(RequestTooLargeError, match="more than 3 windows"):
        await embed(service, prose(40))
    assert engine.computed == []


async def test_short_texts_pass_without_a_limit_or_a_tokenizer() -> None:
    class Behind(FakeEngine):
        """As a model behind another server."""

        @property
        def info(self) -> ModelInfo:
            return msgspec.structs.replace(super().info, context_tokens=0)

        def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list:
            futures = [asyncio.get_running_loop().create_future() for _ in texts]
            for future in futures:
                future.set_exception(RequestError("the tokenizer is unknown here"))
            return futures

    service, engine = make(Behind())
    await embed(service, "wave and sand")
    assert engine.computed == ["wave and sand"]
    with pytest.raises(RequestError, match=r"input\[1\]: the tokenizer is unknown") as caught:
        await embed(service, "wave", prose(40))
    assert caught.value.param == "input[1]"


async def test_repeatable_requests_have_the_same_windows() -> None:
    service, engine = make()
    one = await embed(service, prose(12), repeatable=True)
    other = await embed(service, prose(12), repeatable=True)
    assert np.array_equal(one.vectors, other.vectors)
    assert all(engine.isolated) and len(engine.computed) == 2 * len(set(engine.computed))
