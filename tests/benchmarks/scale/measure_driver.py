"""Measure what Ray Data costs the driver for each block of fragments: inputs `block_ms` and `driver_bytes`.

    python -m tests.benchmarks.scale.measure_driver [--blocks 400 1600]

Workers that compute nothing take blocks of eight pickled fragments, as jobs of `embed --engine ray` do, and return as many
receipts. Processor time of the driver and of Ray's processes of the head node, and the driver's memory, for two numbers of
blocks: their difference is free of the start.
"""

from __future__ import annotations

import argparse
import os
import pickle
import time
from typing import Any, NamedTuple

import psutil

FRAGMENT_BYTES, RECEIPT_BYTES = 500, 120
A_BLOCK = 8


class Cost(NamedTuple):
    """Of a run: seconds by the clock and of the processors, and the driver's memory in bytes."""

    wall: float
    driver: float
    head: float
    memory: int


class Worker:
    """Returns receipts at once."""

    def __call__(self, block: Any) -> Any:
        import pyarrow as pa

        fragments = pickle.loads(block.column("fragments")[0].as_py())  # noqa: S301 - of this process
        return pa.table({"receipts": [os.urandom(RECEIPT_BYTES) * len(fragments)]})


def head_seconds() -> float:
    """Return the processor seconds of Ray's own processes on this machine."""
    found = 0.0
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("gcs_server", "raylet"):
            times = process.cpu_times()
            found += times.user + times.system
    return found


def run(blocks: int) -> Cost:
    """Carry so many blocks to two workers and back."""
    import ray.data

    items = [{"fragments": pickle.dumps([os.urandom(FRAGMENT_BYTES) for _ in range(A_BLOCK)])} for _ in range(blocks)]
    process, began = psutil.Process(), time.monotonic()
    times, head = process.cpu_times(), head_seconds()
    dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        Worker, batch_size=1, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=2), num_cpus=1
    )
    count = sum(
        batch.num_rows for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    if count != blocks:
        raise SystemExit(f"{count} receipts of {blocks}")
    ended = process.cpu_times()
    driver = ended.user + ended.system - times.user - times.system
    return Cost(time.monotonic() - began, driver, head_seconds() - head, process.memory_info().rss)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs=2, default=(400, 1600))
    chosen = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray
    import ray.data

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        run(20)
        few, many = (run(count) for count in chosen.blocks)
    finally:
        ray.shutdown()
    more = chosen.blocks[1] - chosen.blocks[0]
    print(f"{chosen.blocks[0]} blocks: {few}\n{chosen.blocks[1]} blocks: {many}")
    wall, driver, head = (1000 * (large - small) / more for large, small in zip(many[:3], few[:3], strict=True))
    memory = (many.memory - few.memory) / more / A_BLOCK
    print(f"a block: {wall:.1f} ms by the clock, driver {driver:.2f} ms, head {head:.2f} ms; {memory:,.0f} bytes a fragment")


if __name__ == "__main__":
    main()
