"""The inputs of the model, each with its unit, its range and its source."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["measured", "published", "assumed"]


class Source(NamedTuple):
    """Where a value is from. low, high: the range that the sensitivity tables use."""

    unit: str
    kind: Kind
    text: str
    low: float
    high: float


def named(value: float, unit: str, kind: Kind, text: str, low: float | None = None, high: float | None = None) -> Any:
    """Return a field of `Inputs`. low, high: the value itself if nothing is stated."""
    source = Source(unit, kind, text, value if low is None else low, value if high is None else high)
    return dataclasses.field(default=value, metadata={"source": source})


@dataclass(frozen=True)
class Inputs:
    """All numbers that the model starts from. Times a text: of MiniLM, one thread, an AMD Zen 4 vCPU that is a core."""

    # What a worker does: a process with two vCPUs.
    cpu_ms_10: float = named(1.081, "ms a text", "measured", "processor time of `embed`, 10 tokens: scale/measure.py")
    cpu_ms_40: float = named(3.898, "ms a text", "measured", "the same, 40 tokens")
    cpu_ms_100: float = named(9.826, "ms a text", "measured", "the same, 100 tokens")
    cpu_ms_400: float = named(50.44, "ms a text", "measured", "the same, 400 tokens")
    cpu_speed: float = named(1, "times this", "assumed", "of another processor; this one's varies with its host", 0.5, 2)
    host_ms_text: float = named(0.19, "ms a text", "measured", "outside the layers, by a copy with one layer", 0.1, 0.4)
    host_ms_token: float = named(0.0045, "ms a token", "measured", "the same, for each token", 0.002, 0.012)
    threads_busy: float = named(0.96, "of 2", "measured", "1,922 texts/s by 2 threads at 1.001 ms each", 0.7, 1)
    box_efficiency: float = named(0.95, "", "assumed", "8 workers in a box of 16 vCPUs by one alone; not measured", 0.7, 1)
    qwen_tokens: float = named(604, "tokens/s", "measured", "Qwen3-0.6B's shape, 2 threads: benchmarks.md", 500, 670)
    qwen_growth: float = named(1.3e-4, "a token", "measured", "its slower tokens in longer texts: growth.md")
    bytes_row: float = named(1542, "bytes", "measured", "384 float32 in a Parquet shard, with id: scale/measure.py")
    start_s: float = named(60, "s", "assumed", "until a new worker computes: Ray, the model's file, loading", 10, 300)

    # Cards. No figure of ours exists.
    gpu_share: float = named(0.2, "of the peak", "assumed", "see the table of published peers", 0.1, 0.4)
    l4_tflops: float = named(121, "TFLOPS", "published", "16 bit, dense: NVIDIA's, as tables of cards repeat it")
    h100_tflops: float = named(989, "TFLOPS", "published", "the same, H100 SXM")

    # Prices, USD an hour, on demand, Linux.
    price_cpu: float = named(0.1026, "USD/h", "published", "AWS c7a.large, us-east-1, by a public price list", 0.08, 0.12)
    price_l4: float = named(0.8048, "USD/h", "published", "AWS g6.xlarge, us-east-1, quoted 2026-09-26", 0.7, 0.98)
    price_h100: float = named(6.88, "USD/h", "published", "AWS p5.4xlarge, us-west-2, by a price list of 2026", 3, 12.3)
    spot_share: float = named(0.5, "of the price", "published", "L4 0.44 to 0.55 USD, H100 2.63 USD: the same", 0.3, 0.7)

    # The object store: S3's figures.
    put_rate: float = named(3500, "requests/s", "published", "for each prefix: AWS, performance guidelines of S3")
    get_rate: float = named(5500, "requests/s", "published", "the same")
    put_usd: float = named(5e-6, "USD", "published", "0.005 USD for 1,000, S3 Standard, us-east-1")
    get_usd: float = named(4e-7, "USD", "published", "0.0004 USD for 1,000")
    month_usd: float = named(0.023, "USD a GB, month", "published", "S3 Standard; traffic within a region is free")
    token_characters: float = named(5.3, "characters", "measured", "of a token, in the benchmarks' texts", 4, 6)
    part_bytes: float = named(10 * 2**20, "bytes", "measured", "in one request: scale/measure_plan.py on a stand-in")
    gets_fragment: float = named(8, "requests", "assumed", "footer, columns, what an earlier run left", 4, 40)
    first_byte_s: float = named(0.15, "s", "published", "100 to 200 ms: AWS, performance guidelines of S3", 0.03, 0.2)
    connection_bytes: float = named(625e6, "bytes/s", "published", "5 Gbit/s for each connection: AWS")
    worker_network: float = named(94e6, "bytes/s", "published", "0.75 Gbit/s, the baseline of c5.large", 94e6, 1.5e9)

    # The driver and Ray.
    plan_requests: float = named(
        2, "requests a file", "measured", "by scale/measure_plan.py on a stand-in, small files", 1, 3
    )
    plan_cpu_ms: float = named(1.6, "ms a file", "measured", "processor time of the planning: the same", 0.8, 3)
    plan_parallel: float = named(16, "at a time", "measured", "PLANNING_THREADS of bulk/fragments.py", 1, 64)
    block_ms: float = named(9.6, "ms a block", "measured", "driver 5.8, Ray's head 3.9: scale/measure_driver.py", 5, 30)
    driver_bytes: float = named(2_600, "bytes a fragment", "measured", "of the driver's memory: the same", 1e3, 2e4)
    ray_nodes: float = named(250, "nodes", "published", "'250+': Ray's scalability envelope", 250, 4000)

    # What fails.
    box_mtbf_h: float = named(50_000, "h", "assumed", "Llama 3, 2024: 419 failures of 16,384 cards in 54 days", 6300, 2e5)
    spot_hour: float = named(0.02, "an hour", "assumed", "of boxes; published: 5 % a month to 12 % an hour", 7e-5, 0.12)
    away_s: float = named(300, "s", "assumed", "until a box in its place is there", 60, 1800)
    slow_share: float = named(0.02, "of the boxes", "assumed", "that are slow all the time", 0, 0.1)
    slow_speed: float = named(0.5, "of the speed", "assumed", "of those", 0.2, 0.9)
    store_error: float = named(
        1e-4, "of the requests", "published", "AWS designs S3 for 99.99 %, promises 99.9 %", 1e-5, 1e-3
    )
    corrupt_boxes: float = named(
        1e-3, "of the boxes", "published", "that compute wrongly: Dixit 2021, Hochschild 2021, Wang 2023", 1e-4, 4e-3
    )

    # Interactive requests.
    hits_fast: float = named(22_105, "requests/s", "measured", "repeated bodies, one daemon: benchmarks.md")
    hits_rows: float = named(5_317, "requests/s", "measured", "rows of the cache, JSON written again: the same")
    cycle_ms: float = named(1.66, "ms", "measured", "of a pass; from growth.md, 1 and 256 clients")
    query_ms: float = named(0.959, "ms", "measured", "for each text of a pass, 10 words, 2 threads: the same")
    answer_bytes: float = named(12, "bytes a number", "assumed", "of JSON; base64 has 5.3", 5.3, 14)
    memory_rows: float = named(24_000, "rows", "measured", "of 384 numbers in 64 MiB of memory: benchmarks.md")
    disk_rows: float = named(500_000, "rows", "measured", "on 1 GiB of disk: growth.md")
    zipf: float = named(0.9, "exponent", "assumed", "of the popularity of queries", 0.7, 1.1)
    haproxy_us: float = named(55, "us", "measured", "HAProxy 2.6's processor time: scale/measure_balancer.py", 30, 110)
    ray_serve: float = named(0.05, "of hits_rows", "measured", "hits through Ray Serve's ingress: ray-serve.md", 0.03, 0.1)
    redis_us: float = named(5.7, "us", "measured", "Redis 7.0's processor time for 1,600 bytes, unpipelined", 2, 12)
    redis_bytes: float = named(1700, "bytes a row", "assumed", "384 numbers, the key, Redis's own", 1600, 2000)


def sources() -> Iterator[tuple[str, float, Source]]:
    """Yield name, value and source of each input."""
    for field in dataclasses.fields(Inputs):
        yield field.name, field.default, field.metadata["source"]  # type: ignore[misc]


def with_values(given: Inputs, values: dict[str, float]) -> Inputs:
    """Return inputs with other values. Raises ValueError for a name that there is not."""
    names = {field.name for field in dataclasses.fields(Inputs)}
    if unknown := sorted(values.keys() - names):
        raise ValueError(f"no such input: {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    return dataclasses.replace(given, **values)
