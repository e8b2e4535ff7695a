"""The model held against what was measured: none of these figures is an input, unless the table says so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from tests.benchmarks.scale import serving
from tests.benchmarks.scale.inputs import Inputs
from tests.benchmarks.scale.rates import BGE, MINILM, THREADS, Model, cpu_ms


class Check(NamedTuple):
    """A prediction and a measurement. bound: the error that the model states; of shares, in points."""

    name: str
    predicted: float
    measured: float
    bound: float
    where: str
    share: bool = False

    @property
    def error(self) -> float:
        """Relative, or of shares the difference."""
        return self.predicted - self.measured if self.share else self.predicted / self.measured - 1

    @property
    def met(self) -> bool:
        return abs(self.error) <= self.bound


def process_rate(given: Inputs, model: Model, tokens: float, threads: int = THREADS) -> float:
    """Return the texts/s of one process alone on its vCPUs."""
    return 1000 * threads * given.threads_busy / cpu_ms(given, model, tokens)


def tokens(words: int) -> float:
    """Return the tokens of a text of the benchmarks' words, BERT's vocabulary."""
    return 1.16 * words + 2


ON_URIS = {"one process": 1.026, "2 Ray workers": 1.224}
"""Milliseconds of processor time a text."""
CLIENTS = {1: (381, 2.44), 2: (600, 3.06), 4: (670, 5.45), 8: (668, 11.6), 16: (869, 17.9), 32: (989, 31.7)} | {
    64: (1031, 59.5),
    128: (1042, 119),
    256: (1036, 237),
}
"""Of growth.md: clients -> texts/s and p50 in ms."""


def checks(given: Inputs) -> Iterator[Check]:
    """Yield all comparisons."""
    yield from of_workers(given)
    yield from of_clients(given)
    yield from of_caches()


def of_workers(given: Inputs) -> Iterator[Check]:
    """Yield comparisons of what a process computes in bulk."""
    measure, pages = "scale/measure.py", "benchmarks.md"
    times = {10: given.cpu_ms_10, 40: given.cpu_ms_40, 100: given.cpu_ms_100, 400: given.cpu_ms_400}
    for length, time in times.items():
        name = f"MiniLM, {length} tokens, ms of processor time (input)"
        yield Check(name, cpu_ms(given, MINILM, length), time, 0.03, measure)
    for words, rate in ((12, 1150), (100, 159.9)):
        name = f"MiniLM, requests of 64 texts of {words} words, texts/s"
        yield Check(name, process_rate(given, MINILM, tokens(words)), rate, 0.1, pages)
    for words, rate in ((12, 655.2), (100, 88.43)):
        name = f"bge-small's shape, the same, {words} words"
        yield Check(name, process_rate(given, BGE, tokens(words)), rate, 0.15, pages)
    for name, time in ON_URIS.items():
        title = f"MiniLM, 10 tokens, Parquet by URIs, {name}, ms of processor time"
        yield Check(title, cpu_ms(given, MINILM, 10), time, 0.25, "scale/measure_ray.py")
    yield Check(
        "MiniLM, 10 tokens, one process of 1 thread, texts/s", process_rate(given, MINILM, 10, 1), 1052, 0.2, measure
    )
    yield Check("the same, one process of 2 threads", process_rate(given, MINILM, 10), 1922, 0.1, measure)
    yield Check("the same, two processes of 1 thread", 2 * process_rate(given, MINILM, 10, 1), 1749, 0.1, measure)


def of_clients(given: Inputs) -> Iterator[Check]:
    """Yield comparisons of one daemon under load."""
    for clients, (rate, p50) in CLIENTS.items():
        name = f"{clients} client{'s' if clients > 1 else ''}, new texts of 10 words"
        fitted = " (input)" if clients in (1, 256) else ""
        bound = 0.3 if clients in (2, 8) else 0.1
        predicted = serving.closed(given, clients)
        yield Check(f"{name}, texts/s{fitted}", predicted[0], rate, bound, "growth.md")
        yield Check(f"{name}, p50, ms", predicted[1], p50, bound, "growth.md")


def of_caches() -> Iterator[Check]:
    """Yield comparisons of three boxes behind a balancer."""
    where = "installers/several"
    for hashed, hits in ((True, 0.814), (False, 0.534)):
        name = f"hits of 3 boxes, {'by text' if hashed else 'round robin'}"
        found = [serving.hits_by_simulation(hashed=hashed, seed=seed)[0] for seed in range(5)]
        yield Check(f"{name}: simulated", math.fsum(found) / 5, hits, 0.015, where, share=True)
        formula = serving.hits_by_formula(serving.BALANCED_ROWS, serving.REPEATS, serving.BOXES, hashed=hashed)
        yield Check(f"{name}: formula", formula, hits, 0.025, where, share=True)
    for hashed, hits in ((True, 0.827), (False, 0.673)):
        name = f"hits of 2 replicas of Ray Serve, {'by text' if hashed else 'by chance'}: simulated"
        found = [serving.hits_by_simulation(hashed=hashed, boxes=2, seed=seed)[0] for seed in range(5)]
        yield Check(name, math.fsum(found) / 5, hits, 0.025, "ray-serve.md", share=True)
    kept = serving.kept_by_formula(serving.BALANCED_ROWS, serving.REPEATS, serving.BOXES, hashed=False)
    yield Check("rows stored by 3 boxes, round robin", kept, 409, 0.02, where)
