"""One engine for all programs of a user on this machine that want the same settings, such as the tasks of Spark and Dask.

The first program that needs it starts it, under a lock; the others join it, and so do later ones. It is a daemon of its own
(`edgeembed.bulk.engine_process`) on a Unix socket, or on a port with a key where there are none. It belongs to no program:
it ends when nobody has used it for a while. Where it is killed, the next request starts another one. So does a request that
finds it stopped: one that runs answers soon, however long a batch takes, because its worker computes in another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import os
import secrets
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
from filelock import FileLock

from edgeembed import __version__
from edgeembed.bulk.engine_process import Address, Order
from edgeembed.client import Connection, Reply, ask, connected
from edgeembed.common.files import UNREADABLE_JSON, make_private_folder
from edgeembed.common.logs import rotate_log
from edgeembed.common.program import start_detached
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EdgeEmbedError
from edgeembed.hub.install import ensure_installed

IDLE_SECONDS = 300.0
"""An engine that nobody has used for so long ends."""
ANSWER_SECONDS = 30.0
"""Within which an engine says that it runs, on a machine that is busy."""
FIRST_ANSWER_SECONDS = 5.0
"""The same before others may start one: an engine that is busy is then asked again, for longer."""
WATCH_SECONDS = 10.0
"""So often an engine is asked whether it runs while a request waits for it."""
WATCH_ANSWER_SECONDS = 15.0
MOST_UNANSWERED = 2
"""Of these questions in a row; then the request is sent to the engine that runs, or is started, next."""
POLL_SECONDS = 0.05
LAST_BYTES = 4096
"""Of a log in which the reason of an end is looked for."""
LAST_LINES = 4
LONGEST_SOCKET = 100
"""Bytes of the path of a Unix socket; systems take 104 or more."""

COMPUTING = (
    "model", "threads", "kernels", "device", "gpu_layers", "gpu_memory_utilization", "sandbox", "context_tokens",
    "batch_tokens", "load_timeout", "memory_budget_mib", "truncate", "long_text", "clean_text", "offline", "hub_timeout",
    "log_level",
)  # fmt: skip
"""The settings that an engine takes from its programs: none of those about address, keys and limits of a daemon."""

log = logging.getLogger(__name__)


class SharedEngine:
    """The engine of this machine and user for some settings, whether it runs or not."""

    def __init__(self, resolved: Resolved, idle_seconds: float = IDLE_SECONDS) -> None:
        """idle_seconds: of an engine that is started. Raises ConfigError if no model is configured, or it has no folder."""
        settings = resolved.settings
        if settings.model is None:
            raise ConfigError('no model is named; give one, as in model="all-minilm-l6-v2"')
        self._resolved = resolved
        self._settings = Settings(
            **{name: getattr(settings, name) for name in COMPUTING},
            host="127.0.0.1",
            port=0,
            cache=False,
            load_wait=settings.load_timeout,
            max_queue_tokens=0,
            allow_desktop_apps=False,
        )
        self._idle_seconds = idle_seconds
        # Another version or environment has other files, other folders have other models and other tuning.
        same = (self._settings, __version__, sys.executable, [str(path) for path in vars(resolved.paths).values()])
        self._name = hashlib.sha256(msgspec.json.encode(same)).hexdigest()[:16]
        self._folder = _own_folder()
        self._process = self._folder / f"{self._name}.process"
        self._socket = self._folder / f"{self._name}.sock"
        self._address = self._folder / f"{self._name}.json"
        self.log_file = self._folder / f"{self._name}.log"

    @functools.cached_property
    def _on_socket(self) -> bool:
        return sys.platform != "win32" and len(os.fsencode(self._socket)) <= LONGEST_SOCKET

    def find(self, seconds: float = ANSWER_SECONDS) -> Settings | None:
        """Return the address of the engine if it answers within so many seconds, as settings. Blocks."""
        address = self._written()
        reply = asyncio.run(ask(address, "/livez", seconds)) if address else None
        return address if reply is not None and reply.ours else None

    def ensure(self) -> Settings:
        """Return the address of the engine, which is started unless it answers. Blocks. Raises EdgeEmbedError."""
        if found := self.find(FIRST_ANSWER_SECONDS):
            return found
        with FileLock(self._folder / f"{self._name}.lock"):
            if found := self.find():
                return found
            self._end_stopped()
            return self._start()

    def _end_stopped(self) -> None:
        """End the engine that was started last if it still runs: it does not answer, but has the socket and the model.

        By the process's number and time of start. One with the same command line may be that of a container, which sees
        another temporary folder.
        """
        with contextlib.suppress(OSError, *UNREADABLE_JSON, psutil.Error):
            pid, began = msgspec.json.decode(self._process.read_bytes(), type=tuple[int, float])
            process = psutil.Process(pid)
            if process.create_time() == began:
                log.warning("the engine (process %d) does not answer; it is replaced", pid)
                process.kill()
                process.wait(ANSWER_SECONDS)

    def _written(self) -> Settings | None:
        """Return the address at which the engine is, if there is one."""
        if self._on_socket:
            return Settings(uds=str(self._socket)) if self._socket.exists() else None
        try:
            found = msgspec.json.decode(self._address.read_bytes(), type=Address)
        except (OSError, *UNREADABLE_JSON):
            return None
        return Settings(host="127.0.0.1", port=found.port, api_key=found.key or None)

    def _start(self, *, again: bool = True) -> Settings:
        """Start the engine, wait until it has loaded the model, and return its address.

        again: start another one if it is killed from outside meanwhile.
        """
        given = self._settings
        model = ensure_installed(str(given.model), paths=self._resolved.paths, settings=given, report=log.info)
        log.info("starting an engine with %s", model.spec)
        self._address.unlink(missing_ok=True)
        at = {"uds": str(self._socket)} if self._on_socket else {"api_key": secrets.token_urlsafe(32)}
        address = "" if self._on_socket else str(self._address)
        order = Order(msgspec.structs.replace(given, **at), self._idle_seconds, address)
        # The frameworks limit the threads of each task with it, but this is the engine of all tasks.
        environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        rotate_log(self.log_file)
        with self.log_file.open("ab", buffering=0) as log_file:
            begin = log_file.tell()
            words = [sys.executable, "-P", "-m", "edgeembed.bulk.engine_process"]
            process = start_detached(words, stdin=subprocess.PIPE, stderr=log_file, env=environ, cwd=self._folder)
        with contextlib.suppress(psutil.Error):  # it has ended
            self._process.write_bytes(msgspec.json.encode((process.pid, psutil.Process(process.pid).create_time())))
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # the reason why it ended is in its log
            stdin.write(msgspec.json.encode(order))
        while (status := process.poll()) is None:
            found = self._written()
            reply = asyncio.run(ask(found, "/readyz", ANSWER_SECONDS)) if found else None
            if found and reply is not None and reply.ours and reply.status == 200:
                return found
            time.sleep(POLL_SECONDS)
        if status < 0 and again:
            return self._start(again=False)
        lines = [f"the engine ended with exit status {status}; its log:", *self._last_lines(begin)]
        raise EdgeEmbedError("\n  ".join(lines))

    def _last_lines(self, begin: int) -> list[str]:
        """Return why the engine ended, by its log from a position on: the errors, or else the last lines."""
        with self.log_file.open("rb") as file:
            file.seek(max(begin, self.log_file.stat().st_size - LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return [line for line in lines if "error: " in line] or lines[-LAST_LINES:]


class EngineConnection(Connection):
    """Connections to a shared engine; if it no longer answers, another one is started for the next request."""

    def __init__(self, engine: SharedEngine, resources: contextlib.AsyncExitStack) -> None:
        """resources: what is open while this is used. Nothing is started yet."""
        self._engine = engine
        self._resources = resources
        self._lock = asyncio.Lock()
        self._inner: Connection | None = None

    async def open(self) -> Connection:
        """Return connections to the engine, which is started unless it runs. Raises EdgeEmbedError."""
        async with self._lock:
            if self._inner is None:
                address = await asyncio.to_thread(self._engine.ensure)
                self._inner = await self._resources.enter_async_context(connected(address))
            return self._inner

    async def ask(self, path: str, seconds: float = 5.0, body: dict[str, Any] | None = None) -> Reply | None:
        inner = await self.open()
        reply = await _watched(inner, inner.ask(path, seconds, body))
        if reply is None and self._inner is inner:
            self._inner = None
        return reply


async def _watched(connection: Connection, asking: Coroutine[Any, Any, Reply | None]) -> Reply | None:
    """Return the reply of the engine; None also if it stops answering other connections meanwhile."""
    request = asyncio.create_task(asking)
    unanswered = 0
    try:
        while not (await asyncio.wait([request], timeout=WATCH_SECONDS))[0]:
            runs = await connection.ask("/livez", WATCH_ANSWER_SECONDS) is not None
            unanswered = 0 if runs else unanswered + 1
            if unanswered == MOST_UNANSWERED and not request.done():
                return None
        return request.result()
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


@asynccontextmanager
async def engine_connection(engine: SharedEngine) -> AsyncIterator[EngineConnection]:
    """Yield connections to an engine, which is started unless it runs. Raises EdgeEmbedError."""
    async with contextlib.AsyncExitStack() as resources:
        connection = EngineConnection(engine, resources)
        await connection.open()
        yield connection


def _own_folder() -> Path:
    """Return the folder of the engines of this user, which no other can enter; it is made if need be.

    It is on this machine, while home folders may be on several. Raises ConfigError if another user has made it.
    """
    user = f"-{os.getuid()}" if sys.platform != "win32" else ""
    folder = Path(tempfile.gettempdir()) / f"edgeembed{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        own = sys.platform == "win32" or (stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid())
        if own:  # through another user's link, it would take the rights away from whatever folder the link leads to
            make_private_folder(folder)
    except OSError as error:
        raise ConfigError(f"cannot use {folder} for engines ({error.strerror}); set TMPDIR to another folder") from error
    if not own:
        raise ConfigError(f"{folder}, where engines would be, is another user's or a link; set TMPDIR to another folder")
    return folder
