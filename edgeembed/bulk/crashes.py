"""Which fragments end their workers again and again: out of memory, or by a crash of a library that reads them.

Ray restarts a worker that died, as often as it takes, and gives it the same fragments: machines that are taken away are no
fragment's fault. So a restarted worker counts here what it begins, before it does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from edgeembed.bulk.fragments import Fragment
from edgeembed.bulk.records import Position

MOST_CRASHES = 5
"""So often a worker may end at the same shard, not counted the first time. A fragment that gets further begins anew."""
MOST_FAILED = 16
"""Fragments that may fail so; with more it is not them, and the job ends at once."""


class FragmentFailedError(Exception):
    """Workers end at a fragment again and again. The message names the file, and where in it."""


class Beginnings:
    """A Ray actor next to the command that counts how often each place in a fragment was begun."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int, Position]] = Counter()

    def count(self, input_: int, index: int, start: Position) -> int:
        """Count another one, and return how many there were before."""
        self._counts[input_, index, start] += 1
        return self._counts[input_, index, start] - 1


class CrashGuard:
    """In a worker: refuses fragments at which workers end again and again."""

    def __init__(self, ray: Any, beginnings: Any) -> None:
        """beginnings: the actor."""
        self._ray = ray
        self._beginnings = beginnings
        self.is_needed = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        """Whether this worker was restarted. It then computes one fragment at a time, to show which one it is, until a block
        of them is complete."""

    async def begin(self, fragment: Fragment, start: Position) -> None:
        """Count that a fragment is begun at a position. Raises FragmentFailedError."""
        if not self.is_needed:
            return
        counted = self._beginnings.count.remote(fragment.input, fragment.index, start)
        if await asyncio.to_thread(self._ray.get, counted) >= MOST_CRASHES:
            raise FragmentFailedError(place_of(fragment, start))


def start_beginnings(ray: Any) -> Any:
    """Start the actor on this machine: one that is taken away, or runs out of memory, would forget."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(Beginnings).remote()


def place_of(fragment: Fragment, start: Position) -> str:
    """Return what is left of a fragment from a position on, for people."""
    if fragment.files:
        return f"{fragment.name}, from {start.file or fragment.files[0].relative} to {fragment.files[-1].relative}"
    if fragment.rows is not None and fragment.end is not None:
        return f"{fragment.name}, rows {start.offset:,} to {fragment.end - 1:,}"
    if fragment.start.offset or fragment.end is not None:
        end = "the end" if fragment.end is None else f"{fragment.end:,}"
        return f"{fragment.name}, bytes {start.offset:,} to {end}"
    return f"{fragment.name}, from record {start.number:,} on" if start.number else fragment.name


__all__ = ["MOST_CRASHES", "MOST_FAILED", "Beginnings", "CrashGuard", "FragmentFailedError", "place_of", "start_beginnings"]
