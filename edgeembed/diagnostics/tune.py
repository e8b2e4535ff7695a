"""Finds the fastest run profile of a model on this machine: threads, batch size, lanes, padding.

Coordinate descent: one parameter is varied while the others stay, each profile in a separate worker. It measures what
users wait for: a query of ten words, one of forty, and a bulk load. The score of a profile is the geometric mean of these
times relative to the first profile, so that no single one decides.
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

MIN_GAIN = 0.97
"""A profile replaces the best one only if its score is below this share of it; smaller differences are noise."""
BULK_WORDS = (10, 20, 40, 80)
BULK_TEXTS = 32
BULK_TEXTS_ON_CARD = 512
"""Enough to fill the largest batch size that is tried."""
WARM_UPS = 3
TOKENS_PER_WORD = 12
"""More than any tokenizer needs, so that texts fit models with a short context."""


MakeEngine = Callable[[RunProfile], Engine]
Measure = Callable[[RunProfile], Awaitable[tuple[Measurement, ModelInfo]]]
OnMeasurement = Callable[[Measurement], None]


async def tune(
    measure: Measure, start: RunProfile, *, thorough: bool, on_measurement: OnMeasurement = lambda _measurement: None
) -> TuningResult:
    """Find the best profile for a model, beginning with `start`.

    measure: measures one profile, see `measurer`. thorough: try every parameter, not only the number of threads.
    on_measurement: called with each measurement. Raises what `measure` raises.
    """
    first, info = await measure(start)
    on_measurement(first)
    tried = {start: first}
    best = first
    choices_of = _choices_on_card(thorough=thorough) if first.on_card else _choices(start, info, thorough=thorough)
    for choices in choices_of:
        for change in choices:
            profile = msgspec.structs.replace(best.profile, **change)
            if profile in tried:
                continue
            tried[profile], _ = await measure(profile)
            on_measurement(tried[profile])
        fastest = min(tried.values(), key=lambda each: each.score(first))
        if fastest.score(first) < MIN_GAIN * best.score(first):
            best = fastest
    return TuningResult(profile=best.profile, made_at=time.time(), thorough=thorough, measured=list(tried.values()))


def _choices(start: RunProfile, info: ModelInfo, *, thorough: bool) -> Iterator[Sequence[dict[str, int | None]]]:
    """Yield the alternatives of each parameter."""
    halves = [start.threads]
    while halves[-1] > 1:
        halves.append(halves[-1] // 2)
    yield [{"threads": threads} for threads in (halves if thorough else halves[:2])]
    if not thorough:
        return
    yield [{"bulk_lanes": lanes} for lanes in dict.fromkeys((0, 1, 2, max(1, start.threads // 2), start.threads))]
    yield [{"batch_tokens": tokens} for tokens in (64, 256, 512)]
    if info.pooling in ("mean", "cls"):  # decoders gain nothing from padding
        yield [{"pad_from_tokens": tokens} for tokens in (0, 24, 40, 52)]


def _choices_on_card(*, thorough: bool) -> Iterator[Sequence[dict[str, int | None]]]:
    """Yield the alternatives on a GPU, where threads, lanes and padding make no difference."""
    if thorough:
        yield [{"card_batch_tokens": tokens} for tokens in (512, 1024, 4096, 8192)]


def measurer(make_engine: MakeEngine, seconds: float) -> Measure:
    """Return a function that measures a profile with a new engine for so many seconds. It raises EngineError."""

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
            return Pair(maker.text(8), made) if info.task == "rerank" else made

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
    # Two loads in flight, so that the worker always has a next batch.
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
