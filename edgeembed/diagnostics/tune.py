"""Finds out how a model runs best on this machine, and remembers it: threads, batches, lanes, filling up.

One choice after the other is tried with the rest kept (coordinate descent), each in a worker of its own. What is measured is
what users wait for: a query of ten words, one of forty, and a bulk load. The score of a way to run is the geometric mean of
the three times, each against the first way's, so that no single one decides.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.engine.interface import BULK, INTERACTIVE, Engine, ModelInfo, Pair, Row, Text
from edgeembed.models.profiles import Measurement, RunProfile, TuningResult

log = logging.getLogger(__name__)

WORTH = 0.97
"""A way must have at most this share of the best one's score to take its place: less is noise."""
BULK_WORDS = (10, 20, 40, 80)
BULK_TEXTS = 32
BULK_TEXTS_ON_CARD = 512
"""Enough to fill the largest batch that is tried."""
WARM_UPS = 3
TOKENS_PER_WORD = 12
"""More than any tokenizer makes of a word: even a model of a few hundred tokens is not given a text that is too long."""


MakeEngine = Callable[[RunProfile], Engine]
Measure = Callable[[RunProfile], Awaitable[tuple[Measurement, ModelInfo]]]
Tell = Callable[[Measurement], None]


async def tune(
    measure: Measure, start: RunProfile, *, thorough: bool, tell: Tell = lambda _measurement: None
) -> TuningResult:
    """Find the best way for a model, beginning with `start`.

    measure: measures one way, see `measurer`. thorough: try every choice; otherwise the number of threads alone. tell: gets
    each measurement as it comes. Raises what `measure` raises.
    """
    first, info = await measure(start)
    tell(first)
    tried = {start: first}
    best = first
    choices_of = _choices_on_card(thorough=thorough) if first.on_card else _choices(start, info, thorough=thorough)
    for choices in choices_of:
        for change in choices:
            profile = msgspec.structs.replace(best.profile, **change)
            if profile in tried:
                continue
            tried[profile], _ = await measure(profile)
            tell(tried[profile])
        fastest = min(tried.values(), key=lambda each: each.score(first))
        if fastest.score(first) < WORTH * best.score(first):
            best = fastest
    return TuningResult(profile=best.profile, made_at=time.time(), thorough=thorough, measured=list(tried.values()))


def _choices(start: RunProfile, info: ModelInfo, *, thorough: bool) -> Iterator[Sequence[dict[str, int | None]]]:
    """Give what may be changed, one list of alternatives after the other."""
    halves = [start.threads]
    while halves[-1] > 1:
        halves.append(halves[-1] // 2)
    yield [{"threads": threads} for threads in (halves if thorough else halves[:2])]
    if not thorough:
        return
    yield [{"bulk_lanes": lanes} for lanes in dict.fromkeys((0, 1, 2, max(1, start.threads // 2), start.threads))]
    yield [{"batch_tokens": tokens} for tokens in (64, 256, 512)]
    if info.pooling in ("mean", "cls"):  # decoders have no use for it
        yield [{"pad_from_tokens": tokens} for tokens in (0, 24, 40, 52)]


def _choices_on_card(*, thorough: bool) -> Iterator[Sequence[dict[str, int | None]]]:
    """Give what may be changed where a graphics card computes: there threads, lanes and filling up count for nothing."""
    if thorough:
        yield [{"card_batch_tokens": tokens} for tokens in (512, 1024, 4096, 8192)]


def measurer(make_engine: MakeEngine, seconds: float) -> Measure:
    """Give a function that loads a model in one way, measures it for so many seconds and ends it. It raises EngineError."""

    async def measure(profile: RunProfile) -> tuple[Measurement, ModelInfo]:
        return await _measure(make_engine(profile), profile, seconds)

    return measure


async def _measure(engine: Engine, profile: RunProfile, seconds: float) -> tuple[Measurement, ModelInfo]:
    try:
        await engine.start()
        info = engine.info
        assert info is not None
        maker = TextMaker(seed=time.time_ns())

        def text(words: int) -> Text:
            made = maker.text(min(words, info.context_tokens // TOKENS_PER_WORD))
            return Pair(maker.text(8), made) if info.pooling == "rank" else made

        await asyncio.gather(*engine.submit([text(20) for _ in range(WARM_UPS)], INTERACTIVE))
        query = await _median_ms(engine, lambda: text(10), seconds / 4)
        sentence = await _median_ms(engine, lambda: text(40), seconds / 4)
        mode = engine.status.mode or ""
        bulk_texts = BULK_TEXTS_ON_CARD if mode.startswith("gpu") else BULK_TEXTS
        bulk = await _tokens_per_second(engine, text, seconds / 2, bulk_texts)
        return Measurement(profile=profile, query_ms=query, sentence_ms=sentence, tokens_per_second=bulk, mode=mode), info
    finally:
        await engine.close()


async def _median_ms(engine: Engine, text: Callable[[], Text], seconds: float) -> float:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        await asyncio.gather(*engine.submit([text()], INTERACTIVE))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


async def _tokens_per_second(engine: Engine, text: Callable[[int], Text], seconds: float, load: int) -> float:
    tokens = 0
    began = time.perf_counter()
    # Two loads on their way at any time: the worker always has a next batch.
    waiting: set[asyncio.Future[list[Row]]] = set()
    while True:
        over = time.perf_counter() - began >= seconds and tokens > 0
        while not over and len(waiting) < 2:
            texts = [text(BULK_WORDS[number % len(BULK_WORDS)]) for number in range(load)]
            waiting.add(asyncio.gather(*engine.submit(texts, BULK)))
        if not waiting:
            return tokens / (time.perf_counter() - began)
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        tokens += sum(row.tokens for load in done for row in load.result())
