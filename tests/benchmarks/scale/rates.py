"""What one worker does, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeembed.bulk.shards import SHARD_CHARACTERS, SHARD_ROWS
from tests.benchmarks.scale.inputs import Inputs

LENGTHS = (10, 40, 100, 400)
"""Tokens of a text."""
THREADS = 2
"""Of a worker without a card."""

Kind = Literal["cpu", "l4", "h100"]
WORKERS_A_BOX: dict[Kind, int] = {"cpu": 8, "l4": 1, "h100": 1}
"""A box has 16 vCPUs, or one card."""


@dataclass(frozen=True)
class Model:
    """A model. products: multiplications a token, in millions. width: numbers of a row. base: whose times are scaled."""

    name: str
    products: float
    width: int
    base: Literal["minilm", "qwen"]

    def bytes_row(self, given: Inputs) -> float:
        """Return the bytes of a row in a Parquet shard of float32."""
        return given.bytes_row + 4 * (self.width - 384)


MODELS = (
    Model("MiniLM-L6", 10.6, 384, "minilm"),
    Model("bge-small", 21.2, 384, "minilm"),
    Model("Qwen3-0.6B", 440, 1024, "qwen"),
    Model("Qwen3-4B", 3600, 2560, "qwen"),
    Model("Qwen3-8B", 6950, 4096, "qwen"),
)
MINILM, BGE, QWEN = MODELS[:3]


def fitted(given: Inputs) -> tuple[float, float, float]:
    """Return a, b, c of MiniLM's processor time, a + b·n + c·n² ms for n tokens: least squares of the relative errors."""
    times = np.array([given.cpu_ms_10, given.cpu_ms_40, given.cpu_ms_100, given.cpu_ms_400])
    lengths = np.array(LENGTHS, float)
    found, *_ = np.linalg.lstsq(np.stack([lengths**power for power in range(3)], 1) / times[:, None], np.ones(4), rcond=None)
    return float(found[0]), float(found[1]), float(found[2])


def host_ms(given: Inputs, tokens: float) -> float:
    """Return the processor time of a text outside the layers: reading, tokens, batches, output."""
    return given.host_ms_text + given.host_ms_token * tokens


def cpu_ms(given: Inputs, model: Model, tokens: float) -> float:
    """Return the processor time of a text, one thread, nothing on a card."""
    host = host_ms(given, tokens)
    if model.base == "minilm":
        a, b, c = fitted(given)
        layers = max(a + b * tokens + c * tokens**2 - host, 0.0) * model.products / MINILM.products
    else:
        each = 1000 * THREADS / given.qwen_tokens * model.products / QWEN.products
        layers = each * tokens * (1 + given.qwen_growth * (tokens - 100))
    return (layers + host) / given.cpu_speed


def card_ms(given: Inputs, model: Model, tokens: float, kind: Kind) -> float:
    """Return the time of a text on a card: two operations a multiplication, at a share of the card's peak."""
    peak = given.l4_tflops if kind == "l4" else given.h100_tflops
    return 2 * model.products * 1e6 * tokens / (peak * 1e12 * given.gpu_share) * 1000


def worker_rate(given: Inputs, model: Model, tokens: float, kind: Kind) -> float:
    """Return the texts per second of a worker: two vCPUs, or a card whose one process also reads, tokenises and writes."""
    if kind == "cpu":
        return 1000 * THREADS * given.threads_busy * given.box_efficiency / cpu_ms(given, model, tokens)
    return 1000 / max(card_ms(given, model, tokens, kind), host_ms(given, tokens) / given.cpu_speed)


def hour_usd(given: Inputs, kind: Kind, *, spot: bool) -> float:
    """Return what a worker costs an hour."""
    price = {"cpu": given.price_cpu, "l4": given.price_l4, "h100": given.price_h100}[kind]
    return price * (given.spot_share if spot else 1)


def shard_rows(given: Inputs, tokens: float) -> float:
    """Return the rows of a shard: the most that there may be, or as many as have the most characters."""
    return min(SHARD_ROWS, SHARD_CHARACTERS / (given.token_characters * tokens))


def put_requests(given: Inputs, model: Model, tokens: float) -> int:
    """Return the requests that write a shard: one, or more for a file of several parts, to begin and to end it."""
    parts = math.ceil(shard_rows(given, tokens) * model.bytes_row(given) / given.part_bytes)
    return 1 if parts == 1 else parts + 2


def store_requests(given: Inputs, model: Model, tokens: float, rows: float) -> tuple[float, float]:
    """Return the requests for each text that write, and that read. rows: of a fragment."""
    return put_requests(given, model, tokens) / min(shard_rows(given, tokens), rows), given.gets_fragment / rows


def store_usd(given: Inputs, model: Model, tokens: float, rows: float) -> float:
    """Return what the requests to the object store cost for a text. rows: of a fragment."""
    puts, gets = store_requests(given, model, tokens, rows)
    return puts * given.put_usd + gets * given.get_usd


def million_usd(given: Inputs, model: Model, tokens: float, kind: Kind, *, spot: bool = False) -> float:
    """Return the cost of a million texts: price / (texts/s · 3,600) · 10^6, without store, start and end of a job."""
    return hour_usd(given, kind, spot=spot) / (worker_rate(given, model, tokens, kind) * 3600) * 1e6
