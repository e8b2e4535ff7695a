"""A daemon for jobs: the real server with a fake engine, in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from edgeembed.engine.interface import DENSE, Output
from edgeembed.server.auth import Access
from tests.fakes import FakeEngine
from tests.server.dialect_requests import Server


class CountingEngine(FakeEngine):
    """Stops answering after `until` texts; None for never."""

    def __init__(self) -> None:
        super().__init__()
        self.until: int | None = None
        self.stopped = threading.Event()

    def resume(self) -> None:
        if self.until is not None and len(self.computed) >= self.until:
            self.stopped.set()
            return
        super().resume()


@contextmanager
def serving(
    engine: FakeEngine, port: int = 0, outputs: tuple[Output, ...] = DENSE, access: Access | None = None
) -> Iterator[int]:
    """Serve an embedder and a reranker, and yield the port. port: 0 for a free one. outputs: of the embedder."""
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        server = Server(engine, max_request_texts=2048, outputs=outputs, access=access)
        runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        yield int(runner.addresses[0][1])
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
