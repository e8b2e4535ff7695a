"""Interactive requests: latency under load, and the hits of the caches of several boxes."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.benchmarks.scale.inputs import Inputs, with_values
from tests.benchmarks.scale.rates import MINILM, Kind, Model, cpu_ms, worker_rate

BALANCED_ROWS = 150
REPEATS = 6
CLIENTS = 8
BOXES = 3
"""Of installers/several/check.py."""
WORDS_10 = 13.6
"""Tokens of a text of 10 words, the two special ones included."""
MISS_MS, HIT_MS = 12.0, 1.5
"""Of a request there: three daemons, the balancer and the load share two processors."""


def pass_ms(given: Inputs, texts: float) -> float:
    """Return the time of a pass over the texts of all waiting requests."""
    return given.cycle_ms + given.query_ms * texts


def closed(given: Inputs, clients: int) -> tuple[float, float]:
    """Return texts/s and p50 in ms of one box whose clients each send the next text when they have the answer.

    All clients' texts are in one pass; Little's law gives the rate: clients / time of a pass.
    """
    latency = pass_ms(given, clients)
    return 1000 * clients / latency, latency


def most_texts(given: Inputs) -> float:
    """Return the texts per second of a box whose passes are endless."""
    return 1000 / given.query_ms


class Latency(NamedTuple):
    """Of an open load: mean texts of a pass by formula, p50, p99 in ms by simulation."""

    texts: float
    p50: float
    p99: float


def opened(given: Inputs, rate: float, count: int = 60_000, seed: int = 1) -> Latency:
    """Return the latencies of one box under `rate` new texts/s, which come by chance (Poisson).

    Each pass takes all texts that wait. With λ the rate, s the time of a pass and q that of each text, a pass has
    n = λ·s / (1 - λ·q) texts on average; a text waits for half of the pass before its own. Infinite at λ·q >= 1.
    """
    load = rate * given.query_ms / 1000
    if load >= 1:
        return Latency(math.inf, math.inf, math.inf)
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    latencies = np.empty(count)
    at, first = 0.0, 0
    while first < count:
        at = max(at, float(arrivals[first]))
        last = int(np.searchsorted(arrivals, at, "right"))
        at += pass_ms(given, last - first) / 1000
        latencies[first:last] = at - arrivals[first:last]
        first = last
    p50, p99 = 1000 * np.percentile(latencies[count // 10 :], (50, 99))
    return Latency(max(1, rate * given.cycle_ms / 1000 / (1 - load)), float(p50), float(p99))


def served(given: Inputs, model: Model, tokens: float, kind: Kind) -> Inputs:
    """Return the inputs with the time of a pass's text of another model, length or machine in place of MiniLM's 10 words."""
    if kind == "cpu":
        scale = cpu_ms(given, model, tokens) / cpu_ms(given, MINILM, WORDS_10)
        return with_values(given, {"query_ms": given.query_ms * scale})
    return with_values(given, {"query_ms": 1000 / worker_rate(given, model, tokens, kind)})


def beside_hits(given: Inputs, hits: float) -> Inputs:
    """Return the inputs of a box that also answers so many hits a second: its passes take longer by the time of the hits."""
    left = 1 - hits / given.hits_rows
    return with_values(given, {"cycle_ms": given.cycle_ms / left, "query_ms": given.query_ms / left})


def replicas(given: Inputs, rate: float, p99: float, hits: float = 0) -> int:
    """Return how many boxes keep the p99 of new texts at or below a bound. rate, hits: new texts/s and hits/s, in all."""
    count = math.floor(rate / most_texts(given) + hits / given.hits_rows) + 1
    while opened(beside_hits(given, hits / count), rate / count, 20_000).p99 > p99:
        count += max(1, count // 50)
    return count


def kept_by_formula(texts: int, repeats: int, boxes: int, *, hashed: bool) -> float:
    """Return how many rows all boxes store: each text on one box, or on those that round robin has sent it to."""
    return texts if hashed else texts * boxes * (1 - (1 - 1 / boxes) ** repeats)


def hits_by_formula(texts: int, repeats: int, boxes: int, *, hashed: bool) -> float:
    """Return the share of hits if no two requests of a text were under way at the same time."""
    return 1 - kept_by_formula(texts, repeats, boxes, hashed=hashed) / (texts * repeats)


def hits_by_simulation(*, hashed: bool, boxes: int = BOXES, seed: int = 1) -> tuple[float, int]:
    """Return the share of hits, and the rows stored, of the load of installers/several/check.py.

    Each of 150 texts is sent six times in random order by eight clients. A request that comes while its text is being
    computed on that box is no hit.
    """
    chance = np.random.default_rng(seed)
    order = chance.permutation(np.repeat(np.arange(BALANCED_ROWS), REPEATS))
    homes = chance.integers(boxes, size=BALANCED_ROWS)
    ready: dict[tuple[int, int], float] = {}
    clients = [0.0] * CLIENTS
    heapq.heapify(clients)
    hits = 0
    for number, text in enumerate(order):
        at = heapq.heappop(clients)
        key = (int(homes[text]) if hashed else number % boxes, int(text))
        hit = ready.get(key, math.inf) <= at
        hits += hit
        took = HIT_MS if hit else MISS_MS * chance.uniform(0.5, 1.5)
        ready[key] = min(ready.get(key, math.inf), at + took)
        heapq.heappush(clients, at + took)
    return hits / len(order), len(ready)


class Popularity(NamedTuple):
    """How often texts are asked for: shares of the requests, and how many texts have each; the most popular first."""

    shares: npt.NDArray[np.float64]
    texts: npt.NDArray[np.int64]


def popularity(given: Inputs, different: int) -> Popularity:
    """Return the popularity of so many texts by Zipf's law; the less popular ones in groups of about equal shares."""
    edges = np.unique(np.geomspace(1, different + 1, 4000).astype(int))
    texts = np.diff(edges)
    weights = ((edges[:-1] + edges[1:] - 1) / 2) ** -given.zipf
    return Popularity(weights / (weights * texts).sum(), texts)


def lru_hits(popular: Popularity, rows: float) -> float:
    """Return the share of hits of a cache that keeps the last used rows (Che's approximation).

    A row stays for the time T in which the cache fills with different rows: sum(1 - exp(-p·T)) = rows.
    """
    shares, texts = popular
    if rows >= texts.sum():
        return 1.0
    low, high = 1.0, 1e15
    for _ in range(80):
        middle = math.sqrt(low * high)
        full = (texts * -np.expm1(-shares * middle)).sum() < rows
        low, high = (middle, high) if full else (low, middle)
    return float((texts * shares * -np.expm1(-shares * high)).sum())


def long_run_hits(given: Inputs, boxes: int, different: int, *, hashed: bool) -> tuple[float, float]:
    """Return the shares of hits in memory, and in memory or on disk, of several boxes in the long run.

    By text, each box keeps its own texts: together they have `boxes` times the rows. By round robin each box sees all texts.
    """
    popular, times = popularity(given, different), boxes if hashed else 1
    return lru_hits(popular, given.memory_rows * times), lru_hits(popular, given.disk_rows * times)
