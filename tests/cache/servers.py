"""Redis and Valkey servers for tests, each in a folder of its own, and a proxy in front of one that does harm."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.waiting import until

Kind = Literal["redis", "valkey"]
KINDS: tuple[Kind, ...] = ("redis", "valkey")
VALKEY = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgeembed-tests/valkey/usr/bin/valkey-server")


def program_of(kind: Kind) -> str | None:
    """Return the server's program; None if it is not installed."""
    if kind == "valkey" and VALKEY.exists():
        return str(VALKEY)
    return shutil.which(f"{kind}-server")


def missing(kind: Kind) -> str:
    """Return the reason for which tests are skipped without the server."""
    how = "apt install redis-server" if kind == "redis" else "tests/cache/fetch_valkey.sh ~/.cache/edgeembed-tests/valkey"
    return f"no {kind}-server: {how}"


class KeyServer:
    """A server on a Unix socket in `folder`, or on a port too. It forgets all when it is killed."""

    def __init__(self, kind: Kind, folder: Path, *options: str, port: int = 0) -> None:
        program = program_of(kind)
        assert program is not None
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "s"
        self.port = port
        where = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--dir", str(folder)]
        self._command = [program, *where, "--save", "", "--appendonly", "no", *options]
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.password: str | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    @property
    def client(self) -> Any:
        """A client of its own, for looking behind the scenes."""
        return redis.Redis(unix_socket_path=str(self.socket), password=self.password, retry=Retry(NoBackoff(), 0))

    def start(self) -> KeyServer:
        """Start it, and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(self._answers, found=self._log.read_text)
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, OSError):
            return False

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it at once, as a crash would; it may be stopped."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)

    def rows(self) -> list[bytes]:
        """Return the names of our rows on the server."""
        return sorted(self.client.scan_iter(b"edgeembed:*", count=1000))


class Proxy:
    """What is between the cache and a server: passes bytes on, or does harm to replies.

    delay: seconds that replies are late. cut: bytes after which replies end with a reset. garbage: sent in place of replies.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.cut: int | None = None
        self.garbage: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self, server: KeyServer) -> AsyncIterator[str]:
        """Run on a port of its own; yields the URL."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up, down = await asyncio.open_unix_connection(str(server.socket))
            try:
                await asyncio.gather(self._pass(reader, down), self._reply(up, writer))
            except (OSError, asyncio.CancelledError):
                pass  # a side hung up, or the test is over
            finally:
                down.transport.abort()
                writer.transport.abort()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listener:
            yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)  # a slow network
            if self.cut is not None:
                writer.write(data[: self.cut])
                await writer.drain()
                break
            writer.write(data if self.garbage is None else self.garbage)
            await writer.drain()
        raise ConnectionResetError
