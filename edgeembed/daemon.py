"""The daemon put together: settings and a model in, a running server out, until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from aiohttp import web

from edgeembed import __version__
from edgeembed.cache import VectorCache
from edgeembed.config import Paths, Settings
from edgeembed.engine.devices import Ladder, LadderMemory, Rung, usable_threads
from edgeembed.engine.protocol import WorkerOptions
from edgeembed.engine.supervisor import WorkerEngine
from edgeembed.errors import ConfigError, EngineUnavailableError
from edgeembed.hub.store import InstalledModel
from edgeembed.server.app import make_app
from edgeembed.service import EmbeddingService, ServedModel

log = logging.getLogger(__name__)

Announce = Callable[[str], None]

ONE_SIGNAL_SECONDS = 1.0
CACHE_FOLDER = "vectors"
LADDER_FILE = "ladder.json"


def make_engine(
    settings: Settings, paths: Paths, model: InstalledModel, task: Literal["embed", "rerank"] = "embed"
) -> WorkerEngine:
    """Make the engine of an installed model; nothing starts yet."""
    served = _identity(model.path)

    def options(rung: Rung) -> WorkerOptions:
        if _identity(model.path) != served:
            # The cache would keep another model's rows under this one's digest.
            raise EngineUnavailableError(f"{model.path} is not the file that this daemon began with; restart edgeembed")
        return WorkerOptions(
            path=str(model.path),
            threads=settings.threads or usable_threads(),
            context_tokens=settings.context_tokens,
            batch_tokens=settings.batch_tokens,
            rung=rung.name,
            extra_buffers=rung.extra_buffers,
            task=task,
            verbose=settings.log_level == "debug",
        )

    ladder = Ladder(memory=LadderMemory(paths.state / LADDER_FILE, model.digest))
    return WorkerEngine(options, ladder, load_timeout=settings.load_timeout)


def _identity(path: Path) -> tuple[int, int]:
    """Give what tells a file from another one under its name. Raises OSError."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def make_service(settings: Settings, paths: Paths, model: InstalledModel) -> EmbeddingService:
    """Make the service of an installed model; nothing starts yet."""
    cache = (
        VectorCache(paths.cache / CACHE_FOLDER, memory_mib=settings.cache_memory_mib, disk_mib=settings.cache_disk_mib)
        if settings.cache
        else None
    )
    served = ServedModel(
        name=model.name,
        digest=model.digest,
        aliases=(f"{model.name}:{model.type}", Path(model.path).name),
        prompts=model.prompts,
        created=int(Path(model.path).stat().st_mtime),
    )
    return EmbeddingService(served, make_engine(settings, paths, model), cache, timeout=settings.request_timeout)


def check_address(settings: Settings) -> None:
    """Raise ConfigError when the address cannot or must not be listened on: before minutes go into fetching a model."""
    if not settings.no_auth and not _is_loopback(settings.host):
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and nothing here asks them for a key. Listen on "
            "127.0.0.1, put a proxy that authenticates in front, or say --no-auth if the network is yours alone"
        )
    if settings.port == 0:
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise _cannot_listen(settings, error) from error


async def serve(settings: Settings, paths: Paths, model: InstalledModel, announce: Announce) -> int:
    """Serve a model until SIGTERM or Ctrl-C; gives the exit status.

    announce: takes lines for a person at a terminal.
    """
    stop = _stop_on_signals()
    service = make_service(settings, paths, model)
    app = make_app(service, max_body_bytes=settings.max_body_mib * 2**20)
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        shutdown_timeout=settings.grace_period,
        handler_cancellation=True,  # a client that goes away frees its place
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            raise _cannot_listen(settings, error) from error
        url = _url(runner)
        announce(f"edgeembed {__version__} listens on {url}, loading {model.name} {model.type}")
        loading = asyncio.create_task(service.engine.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading
            _announce_ready(service, url, announce)
        else:
            loading.cancel()
        await stopping
        announce("stopping: requests in flight get to finish; Ctrl-C again to end at once")
    except EngineUnavailableError as error:
        announce(f"error: {model.name} cannot be served: {error.message}. `edgeembed doctor` looks closer")
        return 1
    finally:
        await runner.cleanup()
    return 0


def _announce_ready(service: EmbeddingService, url: str, announce: Announce) -> None:
    info, status = service.engine.info, service.engine.status
    assert info is not None
    for fall in status.falls:
        announce(f"rung {fall.rung} did not hold: {fall.reason}")
    announce(
        f"ready: {service.model.name} ({info.dimensions} dimensions, texts up to {info.context_tokens} tokens) "
        f"on rung {status.rung}"
    )
    announce(f"""try:   curl -s {url}/v1/embeddings -H 'content-type: application/json' -d '{{"input":"hello"}}'""")


def _stop_on_signals() -> asyncio.Event:
    """Give an event that SIGTERM and Ctrl-C set; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    first = float("inf")

    def receive() -> None:
        nonlocal first
        # A launcher such as `uv run` passes a Ctrl-C on that the terminal has sent here already: that is one, not two.
        if loop.time() - first > ONE_SIGNAL_SECONDS:
            os._exit(130)  # the worker ends by itself when its pipe does
        first = min(first, loop.time())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, receive)
        except NotImplementedError:  # Windows' event loop
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(receive))
    return stop


def _cannot_listen(settings: Settings, error: OSError) -> ConfigError:
    where = f"[{settings.host}]:{settings.port}" if ":" in settings.host.strip("[]") else f"{settings.host}:{settings.port}"
    if error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)):
        return ConfigError(
            f"{where} is in use: another edgeembed may be running already (see http://{where}/health), or another program "
            f"is. Choose another port with --port, EDGEEMBED_PORT or `edgeembed config set port N`"
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"this user may not listen on {where}; ports from 1024 on are free to all")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def _url(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(settings: Settings, paths: Paths, model: InstalledModel, announce: Announce) -> int:
    """Run `serve` on an event loop of its own."""
    return asyncio.run(serve(settings, paths, model, announce))
