"""How long one request may hold the event loop: hostile and large bodies for each route, and a watch on the loop.

All shapes on all routes, with the longest hold of each: python -m tests.server.loop_watch --mib 16
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import gzip
import http.client
import json
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from aiohttp import web

from edgeembed.cache import VectorCache
from edgeembed.common.heap import configure_heap
from edgeembed.engine.interface import (
    DENSE,
    Float32Matrix,
    Float32Row,
    Output,
    Priority,
    Prompted,
    Row,
    Text,
    Tokenized,
    TokenWant,
)
from edgeembed.engine.outputs import pack
from edgeembed.inference.service import EmbeddingService, ServiceOptions
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel
from edgeembed.server import fast_path
from edgeembed.server.app import make_app
from tests.fakes import FakeEngine, fake_model
from tests.server.malformed import EXAMPLES

BEAT_SECONDS = 0.002
DIMENSIONS = 1024
GOAL_SECONDS = 0.05


@dataclass
class LoopWatch:
    """Records the longest time that the event loop of this thread was held, and what held it.

    Only the time counts in which this process had a processor: min(time between two ticks, processor time of the process).
    """

    longest: float = 0.0
    stack: str = ""
    _tick: float = field(default_factory=time.monotonic)
    _used: float = field(default_factory=time.process_time)
    _over: bool = False

    def __enter__(self) -> LoopWatch:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._caught = ""
        self._beat()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over = True
        self._watcher.join()

    def reset(self) -> None:
        """Forget the longest hold."""
        self.longest, self.stack = 0.0, ""

    def _beat(self) -> None:
        now, used = time.monotonic(), time.process_time()
        held = min(now - self._tick, used - self._used) - BEAT_SECONDS
        if held > self.longest:
            self.longest, self.stack = held, self._caught
        self._tick, self._used, self._caught = now, used, ""
        if not self._over:
            self._loop.call_later(BEAT_SECONDS, self._beat)

    def _watch(self) -> None:
        while not self._over:
            time.sleep(BEAT_SECONDS)  # a beat
            if time.monotonic() - self._tick > GOAL_SECONDS / 2 and not self._caught:
                self._caught = "".join(traceback.format_stack(sys._current_frames()[self._thread])[-4:])


class InstantEngine(FakeEngine):
    """An engine whose rows are all equal, so that its own time hardly counts."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self._row = np.linspace(0.1, 1.0, dimensions, dtype=np.float32)
        tokens, weights = np.tile(self._row, (3, 1)), np.array([(token, 1.5) for token in range(300)], dtype=np.float32)
        self._parts: dict[Output, Float32Matrix] = {
            "dense": self._row[None],
            "multi": tokens,
            "sparse": weights,
            "tokens": tokens,
        }

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in texts]
        row = self._row if outputs == DENSE else pack({output: self._parts[output] for output in outputs})
        loop.call_soon(self._answer, futures, row)
        return futures

    def _answer(self, futures: list[asyncio.Future[Row]], row: Float32Row) -> None:
        """Answer as many as a batch of a worker has, and the others later."""
        for future in futures[:64]:
            if not future.done():
                future.set_result(Row(row, 3))
        if len(futures) > 64:
            asyncio.get_running_loop().call_soon(self._answer, futures[64:], row)

    def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list[asyncio.Future[Tokenized]]:
        futures = []
        for text in texts:
            inner = text if isinstance(text, str) else text.text if isinstance(text, Prompted) else text.document
            count = max(3, min(len(inner) // 5, 140))  # together within the limit of a request
            ids = np.arange(count, dtype=np.int32)
            future = asyncio.get_running_loop().create_future()
            spans = np.stack([ids, ids + 1], axis=1)
            read = Tokenized(ids, ids < 2, [b"word"] * count, spans) if want == "tokens" else Tokenized(ids, ids < 2)
            future.set_result(read)
            futures.append(future)
        return futures


def make_server(max_body_bytes: int) -> web.Application:
    """Return the application with an embedder and a reranker that answer at once."""
    engines = {"embedder": InstantEngine(DIMENSIONS), "ranker": InstantEngine(1)}
    embedder = ServedModel("embedder", "0" * 64, dimensions=DIMENSIONS, outputs=("dense", "multi", "sparse"))
    pool = ModelPool(lambda model: engines[model.name], PoolRules(budget_bytes=1))
    registry = ModelRegistry(embedder, [fake_model("ranker", "rerank")])
    service = EmbeddingService(
        registry, pool, VectorCache(None, memory_mib=64, disk_mib=0), ServiceOptions(timeout=60, max_queue_tokens=10**9)
    )
    return make_app(service, max_body_bytes=max_body_bytes)


# --- shapes -----------------------------------------------------------------------------------------------------------

TEXTS = {
    "/": "inputs",
    "/api/embed": "input",
    "/api/embeddings": "prompt",
    "/decode": "ids",
    "/detokenize": "tokens",
    "/embed": "inputs",
    "/embed_all": "inputs",
    "/embed_sparse": "inputs",
    "/invocations": "input",
    "/pooling": "input",
    "/predict": "inputs",
    "/rerank": "documents",
    "/score": "text_2",
    "/similarity": "inputs",
    "/tokenize": "inputs",
    "/v1/embed": "texts",
    "/v1/embeddings": "input",
    "/v1/multi-vector": "input",
    "/v1/rerank": "documents",
    "/v1/tokenize": "input",
    "/v2/embed": "texts",
    "/v2/rerank": "documents",
}
"""The field with the texts, by path."""
_WORDS = b"the rain in Spain, mainly; "


def _list(item: bytes, size: int) -> bytes:
    return b"[" + (item + b",") * (size // (len(item) + 1)) + item + b"]"


def _text(part: bytes, size: int) -> bytes:
    return b'"' + part * (size // len(part)) + b'"'


def _texts(part: bytes, size: int, count: int = 2000) -> bytes:
    """Return a list of `count` different texts."""
    inner = part * max(1, size // count // len(part))
    return b"[" + b",".join(b'"%d %b"' % (number, inner) for number in range(count)) + b"]"


VALUES: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda size: _list(b"[]", size),
    "empty objects": lambda size: _list(b"{}", size),
    "empty strings": lambda size: _list(b'""', size),
    "short strings": lambda size: _list(b'"word"', size),
    "strings of 70 bytes": lambda size: _list(b'"' + b"a" * 70 + b'"', size),
    "nulls": lambda size: _list(b"null", size),
    "ids": lambda size: _list(b"12345", size),
    "lists of ids": lambda size: _list(_list(b"12345", 8000), size),
    "numbers": lambda size: _list(b"-1.25e-3", size),
    "deep lists": lambda size: b"[" * size,
    "deep objects": lambda size: b'{"a":' * (size // 5),
    "many keys": lambda size: b"{" + b",".join(b'"%d":1' % number for number in range(size // 10)) + b"}",
    "equal keys": lambda size: b"{" + b'"\xc3\xa9":[],' * (size // 8) + b'"a":1}',
    "a huge number": lambda size: b"1" * size,
    "a huge fraction": lambda size: b"1." + b"3" * size,
    "one text": lambda size: _text(_WORDS, size),
    "one text of 4 MB": lambda size: _text(_WORDS, min(size, 4_000_000)),
    "one text of 4 MB, decomposed": lambda size: _text("e\u0301".encode(), min(size, 4_000_000)),
    "one text of 4 MB, Chinese": lambda size: _text("漢字".encode(), min(size, 4_000_000)),
    "escaped quotes": lambda size: _text(rb"\"", min(size, 4_000_000)),
    "escaped letters": lambda size: _text(rb"\u00e9", min(size, 4_000_000)),
    "half pairs": lambda size: _texts(rb"\ud83d ", size),
    "short half pairs": lambda size: _list(rb'"\ud83d\ud83d\ud83d"', min(size, 2_000_000)),
    "combining marks": lambda size: _text("\u0300\u0316".encode(), min(size, 4_000_000)),
    "words with 30 marks": lambda size: _text(("a" + "\u0300\u0316" * 15).encode(), min(size, 2_000_000)),
    "texts": lambda size: _texts(_WORDS, size),
    "texts, Chinese": lambda size: _texts("漢字。".encode(), size),
    "texts, decomposed": lambda size: _texts("e\u0301 ".encode(), size),
    "texts with marks": lambda size: _texts(("a" + "\u0300\u0316" * 15).encode(), min(size, 2_000_000)),
    "texts with a run of marks": lambda size: _texts("\u0300\u0316".encode(), min(size, 4_000_000)),
    "short texts": lambda size: _texts(b"word", 30_000, count=2048),
    "a book": lambda size: _texts(_WORDS, min(size, 4_000_000), count=20_000),
    "a list of words": lambda size: _texts(b"word", 1, count=65_000),
    "an image": lambda size: b'"data:image/png;base64,' + b"iVBORw0KGgo" * (size // 11) + b'"',
    "objects with a text": lambda size: _list(b'{"text":"a","b":[{}]}', size),
    "spaces": lambda size: b" " * size + b'"a"',
    "no end": lambda size: b'"' + b"a" * size,
}
"""JSON values of about `size` bytes, valid or not, by what they are."""


@dataclass(frozen=True)
class Shape:
    """A request that takes long to read if it is read carelessly."""

    name: str
    path: str
    make: Callable[[], bytes]
    """Returns the body; empty for a GET request."""
    headers: dict[str, str] = field(default_factory=dict)


def shapes(size: int) -> Iterator[Shape]:
    """Yield requests with bodies of at most about `size` bytes."""
    size = size * 15 // 16
    for path, field_ in TEXTS.items():
        example = {**EXAMPLES[path], "model": "ranker" if "rerank" in path or path == "/predict" else "embedder"}
        fields = {key: json.dumps(value).encode() for key, value in example.items()}
        bodies = {name: partial(_with, fields, {field_: partial(value, size)}) for name, value in VALUES.items()}
        for other in _OTHER_FIELDS:
            bodies |= {
                f"{other}: {name}": partial(_with, fields, {other: partial(VALUES[name], size)}) for name in _FOR_OTHERS
            }
        for name, changed in _CHANGED.items():
            bodies[name] = partial(_with, fields, {key or field_: partial(value, size) for key, value in changed.items()})
        for name, make in bodies.items():
            yield Shape(name, path, make)
        yield Shape("not JSON", path, lambda: b"\xff\x00" * (size // 2))
        packed = {"Content-Encoding": "gzip"}
        yield Shape("compressed texts", path, partial(_packed, bodies["texts"]), packed)
        yield Shape("compressed spaces", path, partial(_packed, lambda: b" " * 400_000_000), packed)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        yield Shape("a form", path, lambda: b"input=a&" * (size // 8), form)
    yield Shape("a long path", "/v1/models/" + "x" * 4000 + ":query" * 500, bytes)


_OTHER_FIELDS = ("model", "options", "instruction", "query", "dimensions", "stop", "embedding_types", "images", "cache")
_FOR_OTHERS = ("one text of 4 MB", "short strings", "ids", "texts", "many keys", "a huge number")
_CHANGED: dict[str, dict[str, Callable[[int], bytes]]] = {
    "model: suffixes": {"model": lambda _size: b'"x%b"' % (b":query" * 2000)},
    "model: capitals": {"model": lambda size: _text("\u00c9\u00c0".encode(), size)},
    "float types": {"embedding_types": lambda _size: _list(b'"float"', 900_000)},
    "a long query": {
        "query": lambda _size: _text("\u6f22".encode(), 12_000),
        "instruction": lambda _size: _text(b"a", 4000),
        "": lambda _size: _texts(b"a", 1, 2048),
    },
    "cut texts": {"truncate": lambda _size: b'"end"', "": lambda size: _texts("\u6f22\u5b57".encode(), size)},
    "windows of a text": {"long_text": lambda _size: b'"mean"', "": lambda _size: _text(_WORDS, 2_000_000)},
    "windows, Chinese": {"long_text": lambda _size: b'"mean"', "": lambda _size: _text("\u6f22\u5b57".encode(), 1_000_000)},
    "windows of texts": {"long_text": lambda _size: b'"mean"', "": lambda _size: _texts(_WORDS, 2_000_000)},
    "best windows": {"long_text": lambda _size: b'"max"', "": lambda _size: _texts(_WORDS, 2_000_000)},
    "ids of the model": {
        "token_ids": lambda _size: b'"model"',
        "": lambda _size: _list(_list(b"12345", 800), 2_000_000),
    },
    "echoed texts": {
        "return_documents": lambda _size: b"true",
        "return_text": lambda _size: b"true",
        "": lambda size: _texts(_WORDS, size),
    },
    "all outputs": {
        **dict.fromkeys(("sparse", "multi_vector", "sparse_words"), lambda _size: b"true"),
        "": lambda _size: _texts(_WORDS, 1_400_000),
    },
    "listed ids": {"ids": lambda _size: b"true", "": lambda _size: _texts(_WORDS, 1_400_000)},
}
"""Fields that are changed together; "" is the field with the texts."""


def _with(fields: dict[str, bytes], changed: dict[str, Callable[[], bytes]]) -> bytes:
    return _object({**fields, **{name: make() for name, make in changed.items()}})


def _packed(make: Callable[[], bytes]) -> bytes:
    return gzip.compress(make(), 1)


def _object(fields: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in fields.items()) + b"}"


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What a request did: its status (0 if there was no response), and the longest hold with its stack."""

    name: str
    path: str
    status: int
    seconds: float
    took: float
    stack: str


async def measure(
    some: Iterator[Shape], max_body_bytes: int, report: Callable[[Held], None] = lambda _held: None
) -> list[Held]:
    """Send requests one by one to a server in this process; return what each did to its event loop."""
    app = make_server(max_body_bytes)
    # A server's heap is small. That of a test runner, after thousands of tests, takes the collector longer than any request.
    gc.collect()
    gc.freeze()
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    fast_path.install(runner)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    found: list[Held] = []
    try:
        with LoopWatch() as watch:
            await asyncio.sleep(10 * BEAT_SECONDS)  # some beats without load
            for shape in some:
                body = await asyncio.to_thread(shape.make)
                watch.reset()
                began = time.monotonic()
                status = await asyncio.to_thread(_send, port, shape, body)
                took = time.monotonic() - began
                await asyncio.sleep(5 * BEAT_SECONDS)  # some beats
                found.append(Held(shape.name, shape.path, status, watch.longest, took, watch.stack))
                report(found[-1])
    finally:
        gc.unfreeze()
        await runner.cleanup()
    return found


def _send(port: int, shape: Shape, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json", **shape.headers}
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before the whole body was sent
            connection.request("POST" if body else "GET", shape.path, body, headers)
        response = connection.getresponse()
        while response.read(1 << 16):
            pass
        return response.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _report(held: Held) -> None:
    print(f"{1000 * held.seconds:8.1f} ms  {held.took:6.2f} s  {held.status}  {held.path}  {held.name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests that are sent")
    parser.add_argument("--path", help="only this path")
    parser.add_argument("--name", help="only shapes whose name contains this")
    given = parser.parse_args()
    configure_heap()  # as the daemon does
    rng = random.Random(1)
    size = given.mib * 2**20
    some = (
        shape
        for shape in shapes(size)
        if rng.random() < given.share
        and (given.path is None or given.path == shape.path)
        and (given.name is None or given.name in shape.name)
    )
    found = asyncio.run(measure(some, size, _report))
    found.sort(key=lambda held: -held.seconds)
    print("the longest:")
    for held in found[:25]:
        _report(held)
    print(*(held.stack for held in found[:5]), sep="\n")
    print(f"{len(found)} requests, {sum(held.seconds > GOAL_SECONDS for held in found)} held the loop longer than the goal")


if __name__ == "__main__":
    main()
