"""Does a scan displace frequent queries? Zipf queries, a scan of 20 times the cache's size, the same queries again.

    python tests/benchmarks/cache_scan.py

Prints hit rates before and after the scan: the hot tier against plain LRU and Theine (where it is installed), and both tiers
together with a restart of the daemon between queries and scan. The goal is a loss of at most 5 points. Nothing here is
random from run to run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.cache import KeyMaker, VectorCache, tiers
from edgeembed.cache.memory import OVERHEAD_BYTES, MemoryTier
from edgeembed.cache.rows import CachedRow
from edgeembed.cache.sketch import FrequencySketch
from edgeembed.engine.interface import Row

DIMENSIONS = 100
KEYS = KeyMaker("5" * 64, "embed")
ROW = CachedRow(np.zeros(DIMENSIONS, dtype=np.float32), 3)
SCAN = 20


class Policy(Protocol):
    """Something that answers from a cache."""

    def ask(self, key: bytes) -> bool:
        """Return whether the row was there; then add it, if the policy admits it."""
        ...


class Ours:
    """The hot tier."""

    def __init__(self, entries: int) -> None:
        size = entries * (4 * DIMENSIONS + OVERHEAD_BYTES)
        self._tier = MemoryTier(size + FrequencySketch(size // 1024).size_bytes)

    def ask(self, key: bytes) -> bool:
        if self._tier.get(key) is not None:
            return True
        self._tier.put(key, ROW)
        return False


class Lru:
    """Least recently used: what the cache did before."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._rows: OrderedDict[bytes, None] = OrderedDict()

    def ask(self, key: bytes) -> bool:
        if key in self._rows:
            self._rows.move_to_end(key)
            return True
        self._rows[key] = None
        if len(self._rows) > self._entries:
            self._rows.popitem(last=False)
        return False


class Theine:
    """The maintained library that comes nearest."""

    def __init__(self, entries: int) -> None:
        from theine import Cache  # type: ignore[import-not-found,unused-ignore]

        self._cache = Cache(entries)

    def ask(self, key: bytes) -> bool:
        if self._cache.get(key)[1]:
            return True
        self._cache.set(key, 1)
        return False


def zipf(distinct: int, alpha: float, number: int, seed: int) -> list[bytes]:
    """Draw queries by Zipf's law: a few often, many rarely."""
    weights = 1 / np.arange(1, distinct + 1) ** alpha
    drawn = np.random.default_rng(seed).choice(distinct, number, p=weights / weights.sum())
    keys = [KEYS.key("{text}", f"query {number}") for number in range(distinct)]
    return [keys[one] for one in drawn]


def scan_of(entries: int, asked: int) -> list[bytes]:
    """Return the keys of a scan, each requested `asked` times in a row."""
    return [KEYS.key("{text}", f"document {number}") for number in range(SCAN * entries) for _ in range(asked)]


def rate(policy: Policy, keys: Sequence[bytes]) -> float:
    """Return the hit rate in per cent."""
    return 100 * sum(policy.ask(key) for key in keys) / len(keys)


async def both_tiers(
    memory_mib: int, disk_mib: int, queries: Sequence[Sequence[bytes]], scan: Sequence[bytes]
) -> list[float]:
    """Return the hit rates before and after the scan; the daemon is restarted before it and after it."""
    found: list[float] = []
    vector = np.random.default_rng(1).standard_normal(384).astype(np.float32)

    async def run(keys: Sequence[bytes]) -> float:
        cache = VectorCache(folder, memory_mib=memory_mib, disk_mib=disk_mib)
        await cache.open()
        hits = 0
        for number, key in enumerate(keys):
            if await cache.get_many([key]):
                hits += 1
            else:
                cache.put(key, Row(vector, 3), "model")
            if number % 500 == 0:
                while cache.stats.rows_to_write:
                    await asyncio.sleep(0.001)
        await cache.close()
        return 100 * hits / len(keys)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "vectors"
        await run(queries[0])
        found.append(await run(queries[1]))
        await run(scan)
        found.append(await run(queries[2]))
    return found


def print_line(what: str, before: float, after: float) -> None:
    verdict = "" if after >= before - 5 else "   NOT MET"
    print(f"  {what:<44}{before:>8.1f} %{after:>8.1f} %{after - before:>+8.1f}{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-only", action="store_true", help="leave the disk tier out, which takes minutes")
    options = parser.parse_args()
    policies: dict[str, Callable[[int], Policy]] = {"hot tier": Ours, "LRU": Lru}
    try:
        import theine  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

        policies["Theine 2"] = Theine
    except ImportError:
        print("(Theine is not installed: left out)")
    for entries, distinct, alpha, number in (
        (1000, 50_000, 1.0, 50_000),
        (1000, 5_000, 0.8, 20_000),
        (1000, 900, 0.8, 5_000),
    ):
        print(
            f"\n{entries} entries, {number:,} Zipf queries (alpha {alpha}) of {distinct:,}: hit rate before and after a scan"
        )
        queries = [zipf(distinct, alpha, number, seed) for seed in range(3)]
        for asked in (1, 2):
            scan = scan_of(entries, asked)
            for name, make in policies.items():
                policy = make(entries)
                rate(policy, queries[0])
                before = rate(policy, queries[1])
                rate(policy, scan)
                print_line(f"{name}, scan asks {'once' if asked == 1 else 'twice'} each", before, rate(policy, queries[2]))
    if options.memory_only:
        return
    entries = 2 * tiers.MIB // 1900
    for name, memory_mib in (("disk tier alone, restarts", 0), ("both tiers, restarts", 1)):
        print(f"\n{name}: disk of about {entries} rows, memory {memory_mib} MiB")
        for distinct, alpha in ((20_000, 1.0), (1_000, 0.8)):
            queries = [zipf(distinct, alpha, 10_000, seed) for seed in range(3)]
            before, after = asyncio.run(both_tiers(memory_mib, 2, queries, scan_of(entries, 1)))
            print_line(f"{distinct:,} queries, alpha {alpha}", before, after)


if __name__ == "__main__":
    main()
