"""Run a cache whose disk becomes full or read-only, and usable again, and print what happened as JSON.

python -m tests.cache.fault_driver full|readonly FOLDER
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeembed.cache import KeyMaker, VectorCache, health
from edgeembed.engine.interface import Float32Row, Row
from tests.waiting import until_async

NOBODY = 65534
KEYS = KeyMaker("5" * 64, "embed")


def key(number: int) -> bytes:
    return KEYS.key("{text}", str(number))


def row_of(number: int) -> Float32Row:
    """Return a row that begins with a number."""
    row = np.full(384, number, np.float32)
    row[-1] = 1.0  # zeros alone are no vector
    return row


async def settled(cache: VectorCache) -> None:
    def busy() -> bool:
        return bool(cache.stats.rows_to_write) or any(
            task and not task.done() for task in (cache._disk._writer, cache._disk._opening)
        )

    await until_async(lambda: not busy())


async def phase(cache: VectorCache, first: int, count: int) -> dict[str, Any]:
    """Put rows, then look up the last one and the first ones ever put. reported: the last problem on the way."""
    reported = None
    for number in range(first, first + count):
        cache.put(key(number), Row(row_of(number), number))
        await asyncio.sleep(0)
        reported = cache.stats.disk_problem or reported
    await settled(cache)
    old = await cache.get_many([key(number) for number in range(20)])
    new = await cache.get_many([key(first + count - 1)])
    return {
        "problem": cache.stats.disk_problem,
        "reported": cache.stats.disk_problem or reported,
        "old": len(old),
        "new": len(new),
        "right": all(row.vector[0] == row.tokens for row in (*old.values(), *new.values())),
    }


async def run(folder: Path, hurt: Callable[[Path], None], mend: Callable[[Path], None], *, at_start: bool) -> dict[str, Any]:
    """Break the disk while the cache is open, or before it is opened, and repair it."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("edgeembed").addHandler(handler)
    health.PAUSE_SECONDS = 0.0
    memory_mib = 8 if at_start else 0
    cache = VectorCache(folder, memory_mib=memory_mib, disk_mib=64)
    await cache.open()
    found = {"well": await phase(cache, 0, 100)}
    if at_start:
        await cache.close()
    hurt(folder)
    if at_start:
        cache = VectorCache(folder, memory_mib=memory_mib, disk_mib=64)
        await cache.open()
    found["hurt"] = await phase(cache, 1000, 1500)
    mend(folder)
    await phase(cache, 5000, 1)
    found["mended"] = await phase(cache, 5100, 100)
    await cache.close()
    cache = VectorCache(folder, memory_mib=memory_mib, disk_mib=64)
    await cache.open()
    found["later"] = {"problem": cache.stats.disk_problem, "old": len(await cache.get_many([key(5150), key(3)]))}
    await cache.close()
    return {**found, "warnings": warnings}


def no_space(_folder: Path) -> None:
    """Let no file grow beyond 400 kB: writes fail as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))


def space(_folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def read_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    if os.geteuid() == 0:  # root ignores modes
        os.seteuid(NOBODY)


def writable(folder: Path) -> None:
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    faults = {"full": (no_space, space), "readonly": (read_only, writable)}
    print(json.dumps(asyncio.run(run(where, *faults[what], at_start=what == "readonly"))))
