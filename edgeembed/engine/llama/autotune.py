"""A quick measurement of how a model runs fastest on this machine, by the worker that loads it for the first time.

It measures what differs most between machines: the length from which padding makes a text faster. The result holds until
`edgeembed tune` measures more thoroughly. It does not measure the number of threads: on a machine that happens to be busy
the result would be wrong for good, and `ThreadChoice` measures it all the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgeembed.engine.context_plan import TILE
from edgeembed.engine.interface import AutotuneResult

TIME_LIMIT_SECONDS = 0.6
"""After this no new measurement starts: large models are left to `edgeembed tune`."""
REPEATS = 3
LENGTHS = (24, 32, 40, 48, 56)

TimePass = Callable[[int], float]
"""Returns the seconds of a forward pass over one text of so many tokens, without padding."""


def autotune(time_pass: TimePass, *, clock: Callable[[], float] = time.perf_counter) -> AutotuneResult:
    """Return what was measured. The fastest of several passes over a length counts: it was disturbed least."""
    began = clock()

    def over() -> bool:
        return clock() - began > TIME_LIMIT_SECONDS

    def best(tokens: int) -> float:
        times: list[float] = []
        while len(times) < REPEATS and not (times and over()):
            times.append(time_pass(tokens))
        return min(times)

    time_pass(TILE)  # loads the weights into memory
    pad_from: int | None = None
    if not over():
        filled = best(TILE)
        pad_from = 0
        for length in reversed(LENGTHS):
            if over():
                pad_from = None
                break
            if best(length) <= filled:
                break  # and so are shorter texts
            pad_from = length
    return AutotuneResult(pad_from_tokens=pad_from, seconds=round(clock() - began, 3))
