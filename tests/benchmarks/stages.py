"""Measures many things in turns: processes stay loaded, those that are not being measured are frozen, rounds alternate."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.driver import Outcome
from tests.benchmarks.peers import Edgeembed, Peer
from tests.benchmarks.place import Place, Weights
from tests.benchmarks.processes import START_SECONDS, Loop, Server
from tests.benchmarks.scenarios import Phases, Scenario

MIB = 2**20
Outcomes = dict[str, Outcome]
POLL_SECONDS = 0.003


@dataclass(frozen=True)
class Member:
    """A process of a stage: a peer, its model, and the name under which it is measured."""

    name: str
    peer: Peer
    weights: Weights


@dataclass(frozen=True)
class Load:
    """A scenario that a member of a stage is put under, and what is taken from it."""

    member: str
    scenario: Scenario
    figure: Callable[[Phases], float]


Figures = dict[str, float]
"""By member and what was measured: "engine/lone10"."""


@dataclass(frozen=True)
class Stage:
    """Processes that are measured together. calls: functions that measure by themselves."""

    members: Sequence[Member]
    loads: Mapping[str, Load]
    calls: Sequence[Callable[[], Figures]]
    report: Callable[[str], None]
    """Takes a line about a load that failed; its figure is not a number."""

    def run(self, place: Place, rounds: int, seconds: float, seed: int) -> Iterator[Figures]:
        """Yield the figures of each round; "memory" of a member are the most MiB that it had after one of its loads,
        pages that its processes share counted in each.
        """
        with self._running(place) as running:
            for number in range(rounds):
                found: Figures = {}
                for step in [*self.loads.items(), *self.calls][:: 1 if number % 2 == 0 else -1]:
                    if callable(step):
                        found |= step()
                        continue
                    name, load = step
                    one = running[load.member]
                    try:
                        phases, _ = under_load(one, load.scenario, seconds, seed + 104_729 * number)
                        found[name] = load.figure(phases)
                    except RuntimeError as error:
                        self.report(f"{name}: {error}")
                        found[name] = math.nan
                    memory = f"{load.member}/memory"
                    found[memory] = max(found.get(memory, 0.0), one.resident_bytes / MIB)
                yield found

    @contextlib.contextmanager
    def _running(self, place: Place) -> Iterator[dict[str, Server | Loop]]:
        running: dict[str, Server | Loop] = {}
        try:
            for member in self.members:
                one = running[member.name] = member.peer.start(place, member.weights)
                one.wait()
                one.freeze()
            yield running
        finally:
            for one in running.values():
                one.end()


def under_load(one: Server | Loop, scenario: Scenario, seconds: float, seed: int) -> tuple[dict[str, Outcomes], float]:
    """Put a process under the load of a scenario; it is frozen before and after.

    Returns the outcomes of each phase, and what the load driver took of the processors' time. Raises RuntimeError if it
    fails, or if a cache answered texts that were to be new.
    """
    one.thaw()
    try:
        phases, share, hits = {}, 0.0, one.cache_hits()
        for phase, job in scenario.jobs(seconds, seed).items():
            phases[phase], cpu = one.do(job)
            lasted = max(outcome.seconds for outcome in phases[phase].values())
            share = max(share, cpu / lasted / (os.cpu_count() or 1))
        if scenario.all_new and (hits := one.cache_hits() - hits):
            raise RuntimeError(f"its cache answered {hits} texts that were to be new")
        return phases, share
    finally:
        one.freeze()


@dataclass(frozen=True)
class Start:
    """Seconds from the command of a daemon: until its port answers anything, and until it has embedded a text."""

    port: float
    ready: float


def time_start(peer: Edgeembed, place: Place, weights: Weights) -> Start:
    """Start a daemon and end it. Raises RuntimeError when it does not get ready."""
    began = time.perf_counter()
    server = peer.start(place, weights)
    try:
        port = _seconds_until(lambda: _status(server, "GET", "/readyz") is not None, began)
        ready = _seconds_until(lambda: _status(server, "POST", "/v1/embeddings", b'{"input":"hello"}') == 200, began)
        return Start(port, ready)
    finally:
        server.end()


def _seconds_until(reached: Callable[[], bool], began: float) -> float:
    while time.perf_counter() - began < START_SECONDS:
        if reached():
            return time.perf_counter() - began
        time.sleep(POLL_SECONDS)
    raise RuntimeError("the daemon does not start")


def _status(server: Server, method: str, path: str, body: bytes | None = None) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
