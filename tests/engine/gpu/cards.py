"""A model's sizes, and graphics cards that exist only as numbers."""

from __future__ import annotations

from typing import Any

from edgeembed.engine.context_plan import ModelFacts
from edgeembed.engine.gpu.inventory import Device
from edgeembed.engine.gpu.plan import MIB, ModelWeights
from edgeembed.engine.worker_options import WorkerOptions

WEIGHTS = ModelWeights(
    layers=(100 * MIB,) * 28, output=150 * MIB, largest_matrix=3 * MIB, feed_forward=6144, heads_width=2048, heads=16
)


FACTS = ModelFacts(pieces=True, trained_tokens=32_768, width=1024, vocabulary=151_669, cell_bytes=114_688)


GIB = 1024 * MIB


def options(path: str = "", **changes: Any) -> WorkerOptions:
    base: dict[str, Any] = {
        "path": path, "threads": 2, "context_tokens": 4096, "batch_tokens": 512, "mode": "x", "extra_buffers": False,
        "bulk_lanes": 0,
    }  # fmt: skip
    return WorkerOptions(**(base | changes))


def cards(*gib: float) -> list[Device]:
    return [
        Device(
            name=f"CUDA{number}", description="", backend="CUDA", kind="gpu",
            memory_free=int(size * GIB), memory_total=int(size * GIB),
        )
        for number, size in enumerate(gib)
    ]  # fmt: skip
