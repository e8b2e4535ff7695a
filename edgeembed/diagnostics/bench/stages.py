"""Where the time of a lone query goes, stage by stage, between the client's two system calls: `edgeembed bench --trace`.

The client is a plain socket in this thread: its own work is no part of what it measures.
"""

from __future__ import annotations

import asyncio
import bisect
import math
import re
import socket
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import orjson

from edgeembed.common.trace import STAGES, Stamp, read_folder
from edgeembed.config.resolution import Resolved
from edgeembed.diagnostics.bench.daemon import own_daemon
from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.errors import EngineError

WORDS = 10
WARM_UP_REQUESTS = 200
"""The first ones fill the daemon's caches of code and memory, and let the worker find the best number of threads."""
_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]+)\r\n(?:.*\r\n)*\r\n")
"""The length of the body, up to its beginning."""


class StageTime(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage takes, in microseconds. share: of the time of all requests, from 0 to 1."""

    stage: str
    least_us: float
    median_us: float
    p99_us: float
    share: float


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """All stages of lone queries, in the order of a request, and then the whole. parts: of `compute`, by operation."""

    words: int
    requests: int
    stages: list[StageTime]
    parts: list[StageTime]
    total: StageTime


async def measure_stages(resolved: Resolved, model: Path, seconds: float, seed: int) -> StageReport:
    """Start a daemon that is traced, send it one new text after another, and return where the time went.

    Raises EngineUnavailableError when it does not start, EngineError for an answer other than 200.
    """
    with tempfile.TemporaryDirectory(prefix="edgeembed-trace-", ignore_cleanup_errors=True) as folder:
        async with own_daemon(resolved, model, cache=True, trace=Path(folder)) as daemon:
            spans = await asyncio.to_thread(_ask, daemon.url, TextMaker(seed), seconds)
        return await asyncio.to_thread(lambda: report_of(spans, read_folder(Path(folder))))


def report_of(spans: Sequence[tuple[int, int]], stamps: Iterable[Stamp]) -> StageReport:
    """Return the stages of requests. spans: when each was sent and answered, in nanoseconds, in this order."""
    ordered = sorted(stamps, key=lambda stamp: stamp.at)
    times = [stamp.at for stamp in ordered]
    stages: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, list[float]] = defaultdict(list)
    for sent, answered in spans:
        own, own_parts = _stages_of(
            sent, answered, ordered[bisect.bisect_left(times, sent) : bisect.bisect_left(times, answered)]
        )
        for found, taken in ((stages, own), (parts, own_parts)):
            for stage, nanoseconds in taken.items():
                found[stage].append(nanoseconds / 1000)
    whole = [(answered - sent) / 1000 for sent, answered in spans]

    def times_of(found: dict[str, list[float]]) -> list[StageTime]:
        return [_time_of(stage, found[stage], whole) for stage in sorted(found, key=_place)]

    return StageReport(
        words=WORDS,
        requests=len(spans),
        stages=times_of(stages),
        parts=times_of(parts),
        total=_time_of("all", whole, whole),
    )


def _stages_of(sent: int, answered: int, stamps: Sequence[Stamp]) -> tuple[Counter[str], Counter[str]]:
    """Return the nanoseconds of each stage of a request, and of each part. stamps: of its time, in order."""
    stages, parts, before = Counter[str](), Counter[str](), sent
    for at, stage, duration in stamps:
        if duration is not None:
            parts[stage] += duration
        else:
            stages[stage] += at - before
            before = at
    stages[STAGES[-1]] += answered - before
    return stages, parts


def _place(stage: str) -> tuple[int, str]:
    return (STAGES.index(stage) if stage in STAGES else len(STAGES)), stage


def _time_of(stage: str, taken: Sequence[float], whole: Sequence[float]) -> StageTime:
    """Return the figures of a stage, which some requests may not have had. whole: the time of each request."""
    every = sorted([*taken, *[0.0] * (len(whole) - len(taken))])
    last = every[math.ceil(0.99 * len(every)) - 1]
    return StageTime(
        stage=stage,
        least_us=every[0],
        median_us=statistics.median(every),
        p99_us=last,
        share=sum(every) / sum(whole),
    )


def _ask(url: str, maker: TextMaker, seconds: float) -> list[tuple[int, int]]:
    """Send new texts for some seconds; return when each was sent and answered. Raises EngineError."""
    address = urlsplit(url)
    assert address.hostname is not None and address.port is not None
    spans: list[tuple[int, int]] = []
    with socket.create_connection((address.hostname, address.port), timeout=60.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(WARM_UP_REQUESTS):
            _exchange(connection, maker.text(WORDS))
        until = time.monotonic() + seconds
        while not spans or time.monotonic() < until:
            spans.append(_exchange(connection, maker.text(WORDS)))
    return spans


def _exchange(connection: socket.socket, text: str) -> tuple[int, int]:
    """Embed a text; return when the request was sent, and when all of the answer was there. Raises EngineError."""
    body = orjson.dumps({"input": text})
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    request, answer, length = f"{head}\r\n\r\n".encode() + body, b"", None
    sent = time.perf_counter_ns()
    connection.sendall(request)
    while length is None or len(answer) < length:
        received = connection.recv(1 << 18)
        if not received:
            raise EngineError("the daemon to be measured closed the connection")
        answer += received
        if length is None and (found := _LENGTH.search(answer)):
            length = found.end() + int(found[1])
    answered = time.perf_counter_ns()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise EngineError(f"the daemon to be measured answered {answer[:200]!r}")
    return sent, answered
