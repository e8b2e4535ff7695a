"""A daemon on a fake engine, in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from typing import Any

from aiohttp import web

from edgeembed.cache import VectorCache
from edgeembed.server.app import make_app
from edgeembed.server.ops import admin
from tests.fakes import FakeEngine, fake_service
from tests.waiting import until_async


class Daemon:
    """A daemon on a fake engine, in a thread; `up` may be called again after `down`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.engine = FakeEngine()
        self.stopped = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner: web.AppRunner | None = None

    def up(self) -> None:
        self._run(self._up())

    async def _up(self) -> None:
        app = make_app(fake_service(self.engine, VectorCache(None, memory_mib=1, disk_mib=0)))
        admin.add_to(app, self.stopped.set)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        await until_async(lambda: app[admin.SERVICE].pool.slots[0].state == "ready")

    def embed(self, text: str) -> None:
        body = json.dumps({"input": text}).encode()
        url = f"http://127.0.0.1:{self.port}/v1/embeddings"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as response:
            assert response.status == 200

    def down(self) -> None:
        if self._runner is not None:
            self._run(self._runner.cleanup())
            self._runner = None

    def close(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)
