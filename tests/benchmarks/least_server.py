"""The least server that answers /v1/embeddings with a backend of `raw_peer`. Runs in the peer's own virtual environment.

    PYTHONPATH=ROOT VENV/python -m tests.benchmarks.least_server BACKEND FOLDER --port N --threads N

It does for a backend what ours does for our engine, so that servers are compared and not frameworks: a parser of HTTP and a
writer of JSON that are compiled, and texts of all requests that wait are computed together. It has no cache. One thread
computes, as the backend uses all processors for one call.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import uvloop
from aiohttp import web

from tests.benchmarks.raw_peer import Backend, argument_parser, backend_of

MOST_TEXTS = 64
"""Computed together."""


class Batches:
    """Computes the texts of waiting requests together."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[list[str], asyncio.Future[Any]]] = []
        self._wake = asyncio.Event()

    async def embed(self, texts: list[str]) -> Any:
        """Return the rows of texts."""
        rows: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, rows))
        self._wake.set()
        return await rows

    async def run(self) -> None:
        """Compute for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            taken: list[tuple[list[str], asyncio.Future[Any]]] = []
            number = 0
            while self._waiting and (not taken or number + len(self._waiting[0][0]) <= MOST_TEXTS):
                taken.append(self._waiting.pop(0))
                number += len(taken[-1][0])
            if not self._waiting:
                self._wake.clear()
            together = [text for texts, _ in taken for text in texts]
            rows = (await loop.run_in_executor(self._thread, self._backend.embed, together))[0]
            begin = 0
            for texts, future in taken:
                if not future.done():
                    future.set_result(rows[begin : begin + len(texts)])
                begin += len(texts)


def make_app(backend: Backend) -> web.Application:
    """Make the application."""
    batches = Batches(backend)

    async def embeddings(request: web.Request) -> web.Response:
        given = orjson.loads(await request.read())["input"]
        rows = await batches.embed([given] if isinstance(given, str) else given)
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        body = orjson.dumps({"object": "list", "data": data, "model": "model"}, option=orjson.OPT_SERIALIZE_NUMPY)
        return web.Response(body=body, content_type="application/json")

    async def running(_app: web.Application) -> Any:
        task = asyncio.create_task(batches.run())
        yield
        task.cancel()

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/embeddings", embeddings)
    app.cleanup_ctx.append(running)
    return app


def main() -> None:
    """Serve."""
    parser = argument_parser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(make_app(backend_of(options)), host="127.0.0.1", port=options.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
