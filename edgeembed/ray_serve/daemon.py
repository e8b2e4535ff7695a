"""The daemon of a replica: a child process that listens on a Unix socket which only this user can reach."""

from __future__ import annotations

import asyncio
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
from aiohttp import hdrs
from yarl import URL

from edgeembed.client import Connection, key_for
from edgeembed.config.resolution import resolve
from edgeembed.config.secrets import ENV_PREFIX
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, EngineUnavailableError
from edgeembed.ray_serve.arguments import NOT_OURS
from edgeembed.ray_serve.messages import BODILESS, Answer, Request, passed_on

CONNECT_SECONDS = 5.0
READY_SECONDS = 30.0
"""For an answer to /readyz, which embeds a text."""
POLL_SECONDS = 0.1
WHOLE_BYTES = 4 * 2**20
"""A longer answer is passed on in parts."""
STOP_MORE_SECONDS = 5.0
"""Beyond the grace period, before the daemon is killed."""
_LAST_LINES = 5
_QUEUE_TOKENS = "edgeembed_queue_tokens{"
_CHILD = "edgeembed.ray_serve.child"


def variables(settings: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a daemon: the given ones without an address, and these settings.

    Raises ConfigError for wrong ones, and if config.toml has it speak TLS on its socket.
    """
    ours = {f"{ENV_PREFIX}{name.upper()}" for name in NOT_OURS}
    kept = {name: value for name, value in environ.items() if name not in ours}
    found = kept | {f"{ENV_PREFIX}{name.upper()}": value for name, value in settings.items()}
    resolved = resolve({}, found)
    if resolved.settings.certfile:
        raise ConfigError(
            f"{resolved.paths.config_file}: certfile: a replica of Ray Serve speaks HTTP, on a Unix socket. Remove it, "
            "or start Ray with another EDGEEMBED_HOME; Serve's proxies speak HTTPS if its `http_options` name a certificate"
        )
    return found


class ReplicaDaemon:
    """A running daemon, and the connections to it."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        """Start it. environ: see `variables`. folder: private, for the socket; removed by `close`."""
        socket = str(folder / "edgeembed.sock")
        environ = {**environ, f"{ENV_PREFIX}UDS": socket}
        self.settings: Settings = resolve({}, environ).settings
        self._folder = folder
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _CHILD],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        threading.Thread(target=self._read_log, name="daemon's log", daemon=True).start()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=socket, limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        self._connection = Connection(self.settings, self._session)

    async def wait_until_ready(self) -> None:
        """Wait until it embeds; a model that is not installed is fetched first. Raises EngineUnavailableError if it ends."""
        while not await self.is_ready():
            if not self.running:
                reason = "; ".join(self._last_lines)
                raise EngineUnavailableError(f"the daemon ended with status {self._process.returncode}: {reason}")
            await asyncio.sleep(POLL_SECONDS)

    async def is_ready(self) -> bool:
        """Return whether it embeds a text now."""
        reply = await self._connection.ask("/readyz", READY_SECONDS)
        return reply is not None and reply.status == 200

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    async def end(self) -> None:
        """Return when the process has ended."""
        await asyncio.to_thread(self._process.wait)

    async def queue_tokens(self) -> float:
        """Return the estimated tokens of requests that are not answered yet. Raises aiohttp.ClientError."""
        key = key_for(self.settings)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self._session.get("http://localhost/metrics", headers=headers, raise_for_status=True) as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_QUEUE_TOKENS))

    async def ask(self, request: Request) -> AsyncIterator[Answer | bytes]:
        """Yield the answer to a request, then the parts of its body that follow.

        Without an answer it has a `failure`. Raises aiohttp.ClientError if it breaks off after its begin.
        """
        began = False
        try:
            async with self._session.request(
                request.method,
                URL(f"http://localhost{request.target}", encoded=True),
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers],
                data=request.body or None,
                skip_auto_headers=(hdrs.CONTENT_TYPE, hdrs.USER_AGENT, hdrs.ACCEPT_ENCODING, hdrs.ACCEPT),
                allow_redirects=False,
            ) as response:
                headers = passed_on(response.raw_headers)
                length = response.content_length
                ends = request.method == "HEAD" or response.status in BODILESS
                whole = ends or (length is not None and length <= WHOLE_BYTES)
                body = await response.read() if whole else b""
                began = True
                yield Answer(response.status, headers, body, whole)
                if not whole:
                    async for chunk in response.content.iter_any():
                        yield chunk
        except (aiohttp.ClientError, OSError) as error:
            if began:
                raise
            yield Answer(0, [], failure=f"the daemon does not answer: {error}")

    async def close(self) -> None:
        """Stop it: requests in flight get the grace period. Remove its folder."""
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, self.settings.grace_period + STOP_MORE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await self.end()
        await self._session.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _read_log(self) -> None:
        """Pass its log on to ours, which Ray collects, and keep the end of it."""
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self._last_lines.append(line)
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def start(settings: Mapping[str, str]) -> ReplicaDaemon:
    """Start a daemon with settings, in addition to those of our variables and config.toml. Raises ConfigError."""
    if sys.platform == "win32":
        raise ConfigError("replicas need Unix sockets: run them on Linux or macOS")
    environ = variables(settings, os.environ)
    return ReplicaDaemon(environ, Path(tempfile.mkdtemp(prefix="edgeembed-")))
