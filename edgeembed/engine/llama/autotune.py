"""A quick look at how a model runs fastest on this machine: taken by the worker that loads it for the first time.

It asks the question whose answer differs most between machines: from which length on filling up a text pays. What it finds
holds until `edgeembed tune` looks closer. How many threads are best is not asked: on a machine that happens to be busy the
answer would be wrong for years, and `ThreadChoice` asks it all the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgeembed.engine.context_plan import TILE
from edgeembed.engine.interface import AutotuneResult

LOOK_SECONDS = 0.6
"""When so much time is gone nothing new is begun: large models are looked at by `edgeembed tune` alone."""
REPEATS = 3
LENGTHS = (24, 32, 40, 48, 56)

TimePass = Callable[[int], float]
"""Gives the seconds of a forward pass over one text of so many tokens, not filled up."""


def look(time_pass: TimePass, *, clock: Callable[[], float] = time.perf_counter) -> AutotuneResult:
    """Measure. Of several passes over a length the fastest one counts: it was in nobody's way."""
    began = clock()

    def over() -> bool:
        return clock() - began > LOOK_SECONDS

    def best(tokens: int) -> float:
        times: list[float] = []
        while len(times) < REPEATS and not (times and over()):
            times.append(time_pass(tokens))
        return min(times)

    time_pass(TILE)  # brings the weights into memory
    pad_from: int | None = None
    if not over():
        filled = best(TILE)
        pad_from = 0
        for length in reversed(LENGTHS):
            if over():
                pad_from = None
                break
            if best(length) <= filled:
                break  # shorter ones are faster still
            pad_from = length
    return AutotuneResult(pad_from_tokens=pad_from, seconds=round(clock() - began, 3))
