"""A load driver in a separate process: plain sockets, one thread, nothing imported that costs.

The machine that is measured also runs the driver: every microsecond that the driver takes is missing for the server.
It takes a third of what aiohttp's client does (figures: docs/benchmarks.md), and its share is in every result.

    python -m tests.benchmarks.driver < JOB > RESULT        both JSON, see `Job`
"""

from __future__ import annotations

import json
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeembed.diagnostics.bench.texts import TextMaker

CHUNK = 1 << 18


@dataclass(frozen=True)
class Group:
    """Clients that do the same: each sends a request, waits for the answer, pauses, and sends the next one."""

    name: str = "main"
    clients: int = 1
    texts: int = 1
    """In a request."""
    words: int = 10
    prefix: str = ""
    """In front of every text."""
    pause: tuple[float, float] = (0.0, 0.0)
    """Least and most seconds between an answer and the next request, drawn evenly."""
    zipf_pool: int = 0
    """Draw the texts from so many, the n-th with weight 1/n (Zipf's law, exponent 1); 0 makes every text new."""
    pool_seed: int | None = None
    """Makes the texts to draw from the same in every job, so that a cache has them; None: others in each."""


@dataclass(frozen=True)
class Job:
    """What to do. body: further fields of every request's JSON. cpus: processors to stay on; empty leaves that open."""

    port: int
    groups: tuple[Group, ...]
    seconds: float
    seed: int
    warm_seconds: float = 0.5
    host: str = "127.0.0.1"
    body: dict[str, Any] = field(default_factory=dict)
    cpus: tuple[int, ...] = ()

    @classmethod
    def read(cls, raw: str) -> Job:
        """Read JSON as `asdict` writes it."""
        fields = json.loads(raw)
        groups = tuple(Group(**{**group, "pause": tuple(group["pause"])}) for group in fields.pop("groups"))
        return cls(**{**fields, "groups": groups, "cpus": tuple(fields["cpus"])})


@dataclass
class Outcome:
    """The outcome of a group."""

    latencies: list[float] = field(default_factory=list)
    """Seconds of each request, in the order of the answers."""
    texts: int = 0
    seconds: float = 0.0
    """From the start of the clock until the last answer."""
    tokens_per_text: float | None = None
    """As the server counts them, in one answer."""
    distinct: int = 0
    """Different texts among those sent."""


def source_of(group: Group, seed: int) -> Callable[[], list[str]]:
    """Return a function that makes the texts of a group's next request."""
    maker = TextMaker(seed if group.pool_seed is None else group.pool_seed)
    if not group.zipf_pool:
        return lambda: [group.prefix + text for text in maker.texts(group.texts, group.words)]
    pool = [group.prefix + text for text in maker.texts(group.zipf_pool, group.words)]
    weights: list[float] = []
    for rank in range(1, len(pool) + 1):
        weights.append((weights[-1] if weights else 0.0) + 1 / rank)
    draw = random.Random(seed)
    return lambda: draw.choices(pool, cum_weights=weights, k=group.texts)


class _Connection:
    """One client: a socket, the request on its way, and what has come of the answer."""

    def __init__(self, job: Job, group: Group, next_texts: Callable[[], list[str]]) -> None:
        self._job = job
        self.group = group
        self._next_texts = next_texts
        self.socket = self._connect()
        self._head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {job.host}:{job.port}\r\nContent-Type: application/json\r\n"
        self.texts: list[str] = []
        self.sent_at = 0.0
        self.in_flight = False
        self._request = b""
        self._received: list[bytes] = []
        self._missing: int | None = None

    def _connect(self) -> socket.socket:
        connected = socket.create_connection((self._job.host, self._job.port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def send(self) -> None:
        """Make the next request and send it; the clock starts when it is ready."""
        self.texts = self._next_texts()
        body = json.dumps({"input": self.texts[0] if len(self.texts) == 1 else self.texts, **self._job.body}).encode()
        self._request = f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._received, self._missing = [], None
        self.in_flight = True
        self.sent_at = time.perf_counter()
        self.socket.sendall(self._request)

    def reconnect(self) -> None:
        """Reconnect and resend the current request: servers close idle connections."""
        self.socket.close()
        self.socket = self._connect()
        if self.in_flight:
            self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Read what has arrived; return whether the answer is complete. Raises RuntimeError unless its status is 200."""
        chunk = self.socket.recv(CHUNK)
        if not chunk and (not self.in_flight or not self._received):
            raise ConnectionResetError("the server closed the connection")
        if not chunk:
            raise RuntimeError(f"the server closed the connection after {self.answer[:300]!r}")
        self._received.append(chunk)
        if self._missing is None:
            whole = b"".join(self._received)
            end = whole.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = whole[:end].lower()
            length = head.find(b"content-length:")
            if length < 0:
                raise RuntimeError(f"an answer without a length: {head!r}")
            size = int(head[length + 15 :].split(b"\r\n", 1)[0])
            self._missing = size - (len(whole) - end - 4)
        else:
            self._missing -= len(chunk)
        if self._missing > 0:
            return False
        if not self._received[0].startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self.answer[:600].decode("utf-8", "replace"))
        self.in_flight = False
        return True

    @property
    def answer(self) -> bytes:
        return b"".join(self._received)


def run(job: Job) -> tuple[dict[str, Outcome], float]:
    """Do a job; return the outcome of each group, and the processor seconds that the driver took."""
    if job.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cpus)
    if job.warm_seconds:
        # Texts of its own, so that the clock finds none of the job's in a cache.
        with _Clients(job, job.seed + 1) as clients:
            clients.drive(job.warm_seconds)
    with _Clients(job, job.seed) as clients:
        cpu = time.process_time()
        outcomes = clients.drive(job.seconds)
        cpu = time.process_time() - cpu
        for name, connection in clients.last.items():
            outcomes[name].tokens_per_text = _tokens_per_text(connection)
        return outcomes, cpu


class _Clients:
    """All connections of a job."""

    def __init__(self, job: Job, seed: int) -> None:
        self._pauses = random.Random(seed)
        self._connections = list(_connections(job, seed))
        self.last: dict[str, _Connection] = {}
        """A connection of each group that holds one of the last answers."""

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_error: object) -> None:
        for each in self._connections:
            each.socket.close()

    def drive(self, seconds: float) -> dict[str, Outcome]:
        """Let every client send until the time is over, then wait for outstanding answers."""
        outcomes = {each.group.name: Outcome() for each in self._connections}
        seen: dict[str, set[str]] = {name: set() for name in outcomes}
        selector = selectors.DefaultSelector()
        for each in self._connections:
            selector.register(each.socket, selectors.EVENT_READ, each)
        waiting = dict.fromkeys(self._connections, 0.0)  # when it sends next
        in_flight = 0
        began = time.perf_counter()
        until = began + seconds
        while True:
            now = time.perf_counter()
            if now >= until:
                waiting.clear()
            due = [each for each, at in waiting.items() if at <= now]
            for each in due:
                del waiting[each]
                each.send()
                seen[each.group.name].update(each.texts)
                in_flight += 1
            if not in_flight and not waiting:
                break
            timeout = max(min(waiting.values()) - time.perf_counter(), 0.0) if waiting else None
            for key, _ in selector.select(timeout):
                connection: _Connection = key.data
                try:
                    whole = connection.receive()
                except ConnectionResetError:
                    selector.unregister(key.fileobj)
                    connection.reconnect()
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                    continue
                if not whole:
                    continue
                now = time.perf_counter()
                in_flight -= 1
                outcome = outcomes[connection.group.name]
                outcome.latencies.append(now - connection.sent_at)
                outcome.texts += len(connection.texts)
                outcome.seconds = now - began
                waiting[connection] = now + self._pauses.uniform(*connection.group.pause)
                if now >= until:
                    self.last[connection.group.name] = connection
        for name, texts in seen.items():
            outcomes[name].distinct = len(texts)
        return outcomes


def _connections(job: Job, seed: int) -> Iterator[_Connection]:
    for index, group in enumerate(job.groups):
        next_texts = source_of(group, seed + 1000 * index)
        yield from (_Connection(job, group, next_texts) for _ in range(group.clients))


def _tokens_per_text(connection: _Connection) -> float | None:
    """Return an answer's tokens per text, after checking that it holds as many vectors as were requested."""
    answer = json.loads(connection.answer.partition(b"\r\n\r\n")[2])
    if len(answer["data"]) != len(connection.texts):
        raise RuntimeError(f"{len(answer['data'])} rows for {len(connection.texts)} texts")
    tokens = (answer.get("usage") or {}).get("prompt_tokens")
    return tokens / len(connection.texts) if tokens else None


def main() -> None:
    """Read a job from standard input, do it, write what came out."""
    try:
        outcomes, cpu = run(Job.read(sys.stdin.read()))
    except (RuntimeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    json.dump({"outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()}, "driver_seconds": cpu}, sys.stdout)


if __name__ == "__main__":
    main()
