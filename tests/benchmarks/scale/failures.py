"""A job of fragments and shards on workers that vanish and come back: time, money, lost work, the end of the job.

Event by event: a worker takes the next fragment, computes its shards one behind another, and goes on. A box that fails takes
its workers with it; finished shards stay, the shard in progress is lost, and whoever takes the fragment next goes on behind
its last shard. Some boxes are slow. The same seed gives the same job.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.scale.inputs import Inputs
from tests.benchmarks.scale.rates import SHARD_ROWS, WORKERS_A_BOX, Kind, Model, hour_usd, store_usd, worker_rate

IN_FLIGHT = 2
"""Shards that a worker has begun: both are lost."""


@dataclass(frozen=True)
class Job:
    """What is to be done. fragment_rows: of a Parquet row group, or a byte range of lines."""

    model: Model
    tokens: int
    texts: float
    workers: int
    kind: Kind
    spot: bool = False
    fragment_rows: int = 131_072

    @property
    def fragments(self) -> int:
        return math.ceil(self.texts / self.fragment_rows)

    @property
    def boxes(self) -> int:
        return math.ceil(self.workers / WORKERS_A_BOX[self.kind])


@dataclass(frozen=True)
class Outcome:
    """How a job went. Times in seconds. lost: shards computed in vain. idle: share of the workers' time without work."""

    seconds: float
    ideal: float
    failures: int
    lost: float
    repeated: int
    tail: float
    """From when fewer than half of the workers had a fragment until the end."""
    idle: float
    usd: float


def hourly_failures(given: Inputs, *, spot: bool) -> float:
    """Return how often a box fails in an hour."""
    return 1 / given.box_mtbf_h + (given.spot_hour if spot else 0)


def simulate(given: Inputs, job: Job, seed: int = 1) -> Outcome:
    """Run a job."""
    chance = np.random.default_rng(seed)
    rate = worker_rate(given, job.model, job.tokens, job.kind)
    shard_s = SHARD_ROWS / rate
    shards = job.fragment_rows / SHARD_ROWS
    speeds = np.where(chance.random(job.boxes) < given.slow_share, given.slow_speed, chance.normal(1, 0.03, job.boxes))
    hourly = hourly_failures(given, spot=job.spot)
    fails = chance.exponential(3600 / hourly, job.boxes) if hourly else np.full(job.boxes, np.inf)
    back = np.zeros(job.boxes)
    """When a box that failed is there again; 0 before it fails."""
    waiting = deque([shards] * (job.fragments - 1) + [job.texts / SHARD_ROWS - shards * (job.fragments - 1)])
    events = [(given.start_s, worker) for worker in range(job.workers)]
    heapq.heapify(events)
    ends, failures, lost, repeated, busy = np.zeros(job.workers), 0, 0.0, 0, 0.0
    late: list[tuple[float, float]] = []
    """Fragments that are free again at a time: their worker vanished."""
    while events:
        at, worker = heapq.heappop(events)
        box = worker // WORKERS_A_BOX[job.kind]
        while late and late[0][0] <= at:
            waiting.appendleft(heapq.heappop(late)[1])
        if not waiting:
            if late:
                heapq.heappush(events, (late[0][0], worker))  # waits: what a lost worker had begun comes back
            continue
        if at >= fails[box]:  # it failed while this worker was between two fragments, or for another worker of the box
            if back[box] <= fails[box]:
                back[box], failures = fails[box] + given.away_s + given.start_s, failures + 1
            if at >= back[box]:
                fails[box] = at + chance.exponential(3600 / hourly)
                back[box] = 0
            else:
                heapq.heappush(events, (back[box], worker))
                continue
        left = waiting.popleft()
        each = shard_s / speeds[box]
        begin = at + given.first_byte_s * given.gets_fragment
        end = begin + left * each
        if end <= fails[box]:
            busy += end - at
            ends[worker] = end
            heapq.heappush(events, (end, worker))
            continue
        if back[box] <= fails[box]:
            back[box], failures = fails[box] + given.away_s + given.start_s, failures + 1
        done = max(math.floor((fails[box] - begin) / each), 0)
        partial = max((fails[box] - begin) / each - done, 0)
        lost += min(partial * IN_FLIGHT, left - done)
        repeated += 1
        busy += max(fails[box] - at, 0)
        ends[worker] = fails[box]
        heapq.heappush(late, (fails[box], left - done))
        heapq.heappush(events, (back[box], worker))
    seconds = float(ends.max())
    middle = float(np.sort(ends)[len(ends) // 2])
    ideal = job.texts / (rate * job.workers)
    usd = seconds / 3600 * job.workers * hour_usd(given, job.kind, spot=job.spot)
    return Outcome(
        seconds=seconds,
        ideal=ideal,
        failures=failures,
        lost=lost,
        repeated=repeated,
        tail=seconds - middle,
        idle=1 - busy / (seconds * job.workers),
        usd=usd + store_usd(given, job.texts, job.fragment_rows),
    )
