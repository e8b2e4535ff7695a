"""From the figures of rounds to ratios with their spread, as lines and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.scenarios import Phases, Scenario, percentile


@dataclass(frozen=True)
class Spread:
    """Median, least and most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum values up."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.least)}..{_short(self.most)})"


@dataclass
class Comparison:
    """The figures of one scenario: of each peer, one a round, in the order of the rounds."""

    scenario: Scenario
    figures: dict[str, list[float]] = field(default_factory=dict)
    driver_shares: dict[str, list[float]] = field(default_factory=dict)
    """What the driver took of the processors' time, from 0 to 1."""
    details: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, peer: str, phases: Phases, share: float) -> None:
        """Add a round of a peer. share: what the driver took of the processors' time."""
        self.figures.setdefault(peer, []).append(self.scenario.figure(phases))
        self.driver_shares.setdefault(peer, []).append(share)
        for phase, groups in phases.items():
            for group, outcome in groups.items():
                self.details.append(
                    {
                        "round": number,
                        "peer": peer,
                        "phase": phase,
                        "group": group,
                        "requests": len(outcome.latencies),
                        **{f"p{at}_ms": 1000 * percentile(outcome.latencies, at) for at in (50, 90, 99)},
                        "texts_per_second": outcome.texts / outcome.seconds,
                        "tokens_per_text": outcome.tokens_per_text,
                        "repeated_share": 1 - min(outcome.distinct / outcome.texts, 1),
                        "driver_share": share,
                    }
                )

    def ratios(self, ours: str, peer: str) -> list[float]:
        """Return our figure divided by a peer's for each round that has both."""
        return [a / b for a, b in zip(self.figures[ours], self.figures[peer], strict=False)]

    def lines(self, ours: str) -> Iterator[str]:
        """Describe it: each peer's figure, our ratio to it, and whether the goal is met."""
        scenario = self.scenario
        yield f"{scenario.name}: {scenario.title} [{scenario.unit}]"
        for peer, figures in self.figures.items():
            line = f"  {peer:<22} {Spread.of(figures)!s:<32}"
            if peer == ours and scenario.own_goal:
                line += f"  goal {scenario.own_goal}: {_verdict(scenario.own_goal.met(statistics.median(figures)))}"
            if peer != ours and ours in self.figures:
                ratio = Spread.of(self.ratios(ours, peer))
                line += f"  ours / its: {ratio!s:<24}"
                if goal := scenario.goals.get(peer):
                    line += f"  goal {goal}: {_verdict(goal.met(ratio.median))}"
            yield line.rstrip()
        for peer, reason in self.failures.items():
            yield f"  {peer:<22} failed: {reason.splitlines()[0] if reason else ''}"

    def to_json(self, ours: str) -> dict[str, Any]:
        """Return everything, every round included."""
        scenario = self.scenario
        peers = {}
        for peer, figures in self.figures.items():
            ratios = self.ratios(ours, peer) if ours in self.figures and peer != ours else []
            goal = scenario.own_goal if peer == ours else scenario.goals.get(peer)
            reached = (statistics.median(ratios) if ratios else statistics.median(figures)) if goal else None
            peers[peer] = {
                "rounds": figures,
                "median": statistics.median(figures),
                "ratios": ratios,
                "ratio": statistics.median(ratios) if ratios else None,
                "goal": str(goal) if goal else None,
                "met": goal.met(reached) if goal and reached is not None else None,
                "driver_share": max(self.driver_shares.get(peer, [0.0])),
            }
        return {
            "scenario": scenario.name,
            "title": scenario.title,
            "unit": scenario.unit,
            "peers": peers,
            "failures": self.failures,
            "details": self.details,
        }


def cosines(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Return the cosine of each pair of rows."""
    return [_cosine(a, b) for a, b in zip(ours, theirs, strict=True)]


def table_of_settings(settings: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Describe what each peer ran with."""
    for peer, flags in settings.items():
        yield f"  {peer:<22} {' '.join(flags) or 'as it comes'}"


def write_table(page: Path, name: str, lines: Iterable[str]) -> None:
    """Replace the lines between two marks of a page. Raises ValueError if it has no such marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not end:
        raise ValueError(f"{page} has no lines '<!-- {name} -->' and '<!-- end of {name} -->'")
    table = "".join(f"{line}\n" for line in lines)
    page.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return float(product / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


def _verdict(met: bool) -> str:
    return "met" if met else "NOT MET"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 20 else f"{value:.2f}"
