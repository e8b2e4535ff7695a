"""What becomes the limit, and at how many workers or requests."""

from __future__ import annotations

import math
from typing import NamedTuple

from edgeembed.bulk.cluster import MOST_PER_BLOCK
from edgeembed.bulk.fragments import FRAGMENT_ROWS
from tests.benchmarks.scale.inputs import Inputs
from tests.benchmarks.scale.rates import MINILM, QWEN, WORKERS_A_BOX, Kind, Model, put_requests, shard_rows, worker_rate

BulkCase = tuple[str, Model, int, Kind]
BULK_CASES: tuple[BulkCase, ...] = (
    ("MiniLM-L6, 10 tokens, CPU", MINILM, 10, "cpu"),
    ("MiniLM-L6, 10 tokens, L4", MINILM, 10, "l4"),
    ("Qwen3-0.6B, 100 tokens, L4", QWEN, 100, "l4"),
)


class Limit(NamedTuple):
    """A limit of a bulk job: texts a second of all workers together, or a number of workers."""

    name: str
    arithmetic: str
    then: str
    texts: float = math.inf
    workers: float = math.inf


def bulk_limits(given: Inputs, model: Model, tokens: int, kind: Kind) -> list[Limit]:
    """Return the limits of a job whose fragments have 65,536 rows."""
    row, in_shard = model.bytes_row(given), shard_rows(given, tokens)
    puts = put_requests(given, model, tokens)
    return [
        Limit(
            "store, PUT",
            f"{given.put_rate:,.0f} / {puts} shards/s of {in_shard:,.0f} rows",
            "several jobs, each with a prefix",
            texts=given.put_rate / puts * in_shard,
        ),
        Limit(
            "store, GET",
            f"{given.get_rate:,.0f} / {given.gets_fragment:g} fragments/s of {FRAGMENT_ROWS:,} rows",
            "inputs under several prefixes",
            texts=given.get_rate / given.gets_fragment * FRAGMENT_ROWS,
        ),
        Limit(
            "driver: fragments out, receipts in",
            f"1 s / {given.block_ms:g} ms for a block of {MOST_PER_BLOCK} fragments",
            "larger fragments; several jobs",
            texts=1000 / given.block_ms * MOST_PER_BLOCK * FRAGMENT_ROWS,
        ),
        Limit(
            "nodes of Ray",
            f"{given.ray_nodes:g} nodes of {WORKERS_A_BOX[kind]} workers",
            "larger boxes; several clusters",
            workers=given.ray_nodes * WORKERS_A_BOX[kind],
        ),
        Limit(
            "rows through one process",
            f"{given.connection_bytes / 1e6:,.0f} MB/s / {row:,.0f} bytes",
            "no row passes through the driver; a job without fragments has this limit",
            texts=given.connection_bytes / row,
        ),
    ]


def reached_at(given: Inputs, limit: Limit, case: BulkCase) -> float:
    """Return the number of workers at which a limit is reached."""
    _, model, tokens, kind = case
    return min(limit.workers, limit.texts / worker_rate(given, model, tokens, kind))


def most_texts(given: Inputs, model: Model, tokens: int, kind: Kind) -> float:
    """Return the texts/s that no number of workers exceeds."""
    return min(limit.texts for limit in bulk_limits(given, model, tokens, kind)[:-1])


def network_share(given: Inputs, case: BulkCase) -> float:
    """Return the share of a worker's network that its rows take."""
    _, model, tokens, kind = case
    return worker_rate(given, model, tokens, kind) * model.bytes_row(given) / given.worker_network


def plan_seconds(given: Inputs, files: float) -> float:
    """Return how long the planning of Parquet files takes: waiting for their footers, or the processor's time for them."""
    waiting = given.plan_requests * given.first_byte_s / given.plan_parallel
    return files * max(waiting, given.plan_cpu_ms / 1000)


def driver_mib(given: Inputs, texts: float, fragment_rows: float = FRAGMENT_ROWS) -> float:
    """Return the memory that the fragments of a job take in the driver."""
    return math.ceil(texts / fragment_rows) * given.driver_bytes / 2**20


class ServingLimit(NamedTuple):
    """A limit of interactive requests, for each core or box, in requests/s of one text."""

    name: str
    arithmetic: str
    requests: float
    then: str


def serving_limits(given: Inputs, width: int = 384) -> list[ServingLimit]:
    """Return the limits of interactive requests of 10 words."""
    answer = given.answer_bytes * width + 300
    row = given.redis_bytes + 4 * (width - 384)
    return [
        ServingLimit("a box, new texts", f"1,000 / {given.query_ms:g} ms", 1000 / given.query_ms, "more boxes, or a card"),
        ServingLimit("a box, rows from the cache", "measured", given.hits_rows, "more boxes"),
        ServingLimit("a box, repeated bodies", "measured", given.hits_fast, "more boxes"),
        ServingLimit(
            "the network of a box (0.75 Gbit/s)",
            f"{given.worker_network / 1e6:g} MB/s / {answer / 1000:.1f} kB of JSON",
            given.worker_network / answer,
            "base64 or int8; larger boxes",
        ),
        ServingLimit(
            "the balancer, for each core",
            f"1 s / {given.haproxy_us:g} us, the key from the JSON included",
            1e6 / given.haproxy_us,
            "more cores; several balancers by DNS, all with the same hash",
        ),
        ServingLimit(
            "an ingress of Ray Serve",
            f"{given.ray_serve:g} of {given.hits_rows:,.0f}, on two cores with its replicas",
            given.ray_serve * given.hits_rows,
            "several texts a request; more ingresses; HAProxy and plain daemons",
        ),
        ServingLimit(
            "the shared cache, processor",
            f"1 s / {given.redis_us:g} us, one thread",
            1e6 / given.redis_us,
            "several servers behind a proxy; only what memory and disk lack is asked for",
        ),
        ServingLimit(
            "the shared cache, network of 5 Gbit/s",
            f"{given.connection_bytes / 1e6:,.0f} MB/s / {row:,.0f} bytes",
            given.connection_bytes / row,
            "the same",
        ),
    ]
