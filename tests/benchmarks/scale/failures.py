"""A job of fragments and shards on workers that vanish and come back: time, money, lost work, the end of the job.

Event by event: Ray gives each worker two blocks of fragments; one it computes, shard by shard, until there are none.
A box that fails takes its workers with it; finished shards stay, those in progress are lost, the blocks of the worker go to
others, who go on behind the last finished shard. Some boxes are slow. The same seed gives the same job.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from edgeembed.bulk.cluster import BLOCKS_PER_WORKER, MOST_PER_BLOCK
from edgeembed.bulk.fragment_shards import CONCURRENT_FRAGMENTS, CONCURRENT_SHARDS
from edgeembed.bulk.fragments import FRAGMENT_ROWS
from tests.benchmarks.scale.inputs import Inputs
from tests.benchmarks.scale.rates import WORKERS_A_BOX, Kind, Model, hour_usd, shard_rows, store_usd, worker_rate

AHEAD = 2
"""Blocks that Ray Data gives a worker: one waits while the other is computed."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    fragment_rows: smaller row groups are put together up to so many rows, larger ones are divided.
    """

    model: Model
    tokens: int
    texts: float
    workers: int
    kind: Kind
    spot: bool = False
    fragment_rows: int = FRAGMENT_ROWS

    @property
    def fragments(self) -> int:
        return math.ceil(self.texts / self.fragment_rows)

    @property
    def boxes(self) -> int:
        return math.ceil(self.workers / WORKERS_A_BOX[self.kind])

    @property
    def fragments_a_block(self) -> int:
        return max(1, min(MOST_PER_BLOCK, self.fragments // (BLOCKS_PER_WORKER * self.workers)))


@dataclass(frozen=True)
class Outcome:
    """How a job went. Times in seconds. lost: shards computed in vain. idle: share of the workers' time without work."""

    seconds: float
    ideal: float
    failures: int
    lost: float
    tail: float
    """From when half of the workers had no more work until the end."""
    idle: float
    usd: float


def hourly_failures(given: Inputs, *, spot: bool) -> float:
    """Return how often a box fails in an hour."""
    return 1 / given.box_mtbf_h + (given.spot_hour if spot else 0)


class _Run:
    """A job under way. Blocks are numbers of shards that are left."""

    def __init__(self, given: Inputs, job: Job, seed: int) -> None:
        self._given, self._job = given, job
        self._chance = np.random.default_rng(seed)
        self._hourly = hourly_failures(given, spot=job.spot)
        speeds = self._chance.normal(1, 0.03, job.boxes)
        slow = self._chance.random(job.boxes) < given.slow_share
        self._speeds = np.where(slow, given.slow_speed, speeds / speeds.mean())
        in_shard = shard_rows(given, job.tokens)
        self._shard_s = in_shard / worker_rate(given, job.model, job.tokens, job.kind)
        self._fails = [self._next_failure(0) for _ in range(job.boxes)]
        self._counted: set[tuple[int, float]] = set()
        block, all_shards = job.fragments_a_block * job.fragment_rows / in_shard, job.texts / in_shard
        whole = math.floor(all_shards / block)
        self._waiting = deque([block] * whole + ([all_shards - whole * block] if all_shards > whole * block else []))
        self._queues: list[deque[float]] = [deque() for _ in range(job.workers)]
        for _ in range(AHEAD):  # those with the fewest blocks get the next ones
            for queue in self._queues[: len(self._waiting)]:
                queue.append(self._waiting.popleft())
        self._events = [(given.start_s, worker, "free") for worker in range(job.workers)]
        self._unused: list[int] = []
        self.ends, self.busy, self.lost = np.zeros(job.workers), 0.0, 0.0

    @property
    def failures(self) -> int:
        return len(self._counted)

    def go(self) -> None:
        """Compute all blocks."""
        heapq.heapify(self._events)
        while self._events:
            at, worker, kind = heapq.heappop(self._events)
            if kind == "done":
                self.ends[worker] = at
                self._queues[worker].popleft()
            if kind == "failed":
                self._fail(at, worker)
            else:
                self._begin(at, worker)

    def _next_failure(self, at: float) -> float:
        return at + self._chance.exponential(3600 / self._hourly) if self._hourly else math.inf

    def _begin(self, at: float, worker: int) -> None:
        """Let a worker compute the next block, if its box is there and there is one."""
        box = worker // WORKERS_A_BOX[self._job.kind]
        if self._fails[box] <= at:
            back = self._fails[box] + self._given.away_s + self._given.start_s
            if at < back:
                heapq.heappush(self._events, (back, worker, "free"))
                return
            self._fails[box] = self._next_failure(at)
        queue = self._queues[worker]
        while self._waiting and len(queue) < AHEAD:
            queue.append(self._waiting.popleft())
        if not queue:
            self._unused.append(worker)
            return
        end = at + self._before() + queue[0] * self._shard_s / self._speeds[box]
        done = end <= self._fails[box]
        self.busy += (end if done else self._fails[box]) - at
        heapq.heappush(self._events, (end, worker, "done") if done else (self._fails[box], worker, "failed"))
        if not done:
            self._mark(at, worker, box)

    def _before(self) -> float:
        """Return the seconds until the first text of a block is there; later fragments are read beside the computing."""
        return self._given.first_byte_s * self._given.gets_fragment

    def _mark(self, at: float, worker: int, box: int) -> None:
        """Reduce the block in progress to what its failure leaves."""
        queue = self._queues[worker]
        shards = max(self._fails[box] - at - self._before(), 0) / (self._shard_s / self._speeds[box])
        finished = math.floor(shards)
        begun = CONCURRENT_SHARDS * min(CONCURRENT_FRAGMENTS, self._job.fragments_a_block)
        self.lost += min((shards - finished) * begun, queue[0] - finished)
        queue[0] -= finished

    def _fail(self, at: float, worker: int) -> None:
        """Put a lost worker's blocks back for others."""
        box = worker // WORKERS_A_BOX[self._job.kind]
        self._counted.add((box, self._fails[box]))
        self._waiting.extendleft(reversed(self._queues[worker]))
        self._queues[worker].clear()
        heapq.heappush(self._events, (at, worker, "free"))
        for _ in range(min(len(self._unused), len(self._waiting))):
            heapq.heappush(self._events, (at, self._unused.pop(), "free"))


def simulate(given: Inputs, job: Job, seed: int = 1) -> Outcome:
    """Run a job."""
    run = _Run(given, job, seed)
    run.go()
    seconds = float(run.ends.max())
    usd = seconds / 3600 * job.workers * hour_usd(given, job.kind, spot=job.spot)
    return Outcome(
        seconds=seconds,
        ideal=job.texts / (worker_rate(given, job.model, job.tokens, job.kind) * job.workers),
        failures=run.failures,
        lost=run.lost,
        tail=seconds - float(np.sort(run.ends)[job.workers // 2]),
        idle=1 - run.busy / (seconds * job.workers),
        usd=usd + job.texts * store_usd(given, job.model, job.tokens, job.fragment_rows),
    )
