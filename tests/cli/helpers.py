"""Helpers for tests of commands: installed models, a fake daemon, a terminal."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from edgeembed.config.paths import Paths
from edgeembed.hub.manifest import ModelManifest
from edgeembed.hub.store import InstalledModel, Store
from tests.hub.fakes import gguf_bytes

MAIN = "import sys; from edgeembed.cli.main import main; sys.argv[0] = 'edgeembed'; main()"


def install(name: str, kind: str, *, size: int = 5000, rerank: bool = False, **values: str) -> InstalledModel:
    """Install a tiny GGUF file of `size` bytes, with more metadata, in the store of the test's home folder."""
    head: dict[str, str | int | list[str]] = {"general__architecture": "bert", "bert__embedding_length": 8}
    if rerank:
        head["bert__pooling_type"] = 4
    content = gguf_bytes(**head, **values, general__name=f"{name} {kind}")
    content += bytes(size - len(content))
    store = Store(Paths.resolve())
    staged = store.folder(name) / ".pull-test" / "file.gguf"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(content)
    status = staged.stat()
    model = store.add(
        staged,
        ModelManifest(
            name=name,
            type=kind,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            source="a test",
            license="MIT",
            installed_at="2026-01-01T00:00:00+00:00",
        ),
    )
    staged.parent.rmdir()
    return model


def loaded(model: InstalledModel, **changed: Any) -> dict[str, Any]:
    """Return a loaded model as GET /v1/status describes it."""
    return {
        "name": model.name,
        "type": model.type,
        "task": model.task,
        "path": str(model.path),
        "digest": model.digest,
        "default": False,
        "pinned": False,
        "state": "ready",
        "reason": None,
        "device": "cpu",
        "memory_bytes": 712_300_000,
        "requests": 1234,
        "texts": 5678,
        "active": 0,
        "idle_seconds": 300.0,
        "keep_alive_seconds": 1800.0,
        "dimensions": 8,
        "context_tokens": 512,
        "worker_pid": 4321,
        **changed,
    }


def status_of(*models: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return the body of GET /v1/status."""
    return {
        "version": "0.1.0",
        "pid": 99,
        "uptime_seconds": 7300.5,
        "memory": {"budget_bytes": 4_000_000_000, "used_bytes": 712_300_000},
        "models": list(models),
        "cache": {"hits": 1},
        **changed,
    }


@contextmanager
def answering(
    body: Any,
    *,
    status: int = 200,
    server: str = "edgeembed/0.1.0",
    host: str = "127.0.0.1",
    uds: Path | None = None,
    tls: ssl.SSLContext | None = None,
    key: str | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Run a server that answers every GET with `body`; yield its port and the requested paths.

    uds: a Unix socket to listen on instead; the port is then 0. key: the required API key; without it the status is 401.
    """
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            wanted = {"error": {"message": "an API key is needed"}}
            return web.json_response(wanted, status=401, headers={"Server": server})
        if isinstance(body, str):
            return web.Response(text=body, status=status, headers={"Server": server})
        return web.json_response(body, status=status, headers={"Server": server})

    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)

    async def start() -> int:
        await runner.setup()
        site = web.UnixSite(runner, uds, ssl_context=tls) if uds else web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        return 0 if uds else int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(10), asked
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def edgeembed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `edgeembed` as a user does, with the test's EDGEEMBED_HOME."""
    return subprocess.run([sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, timeout=120, check=False)


def on_terminal(*arguments: str, keys: str = "", columns: int = 80) -> tuple[int, str]:
    """Run `edgeembed` on a pseudo-terminal (POSIX) and return exit status and output. keys: typed after the first output."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # on Linux: the other end is closed
                break
            if not piece:
                break
            shown += piece
            if keys:
                os.write(ours, keys.encode())
                keys = ""
        return process.wait(60), shown.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        os.close(ours)
