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
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp import web

from edgeembed import __version__
from edgeembed.config import Paths, Settings
from edgeembed.engine.protocol import Engine
from edgeembed.errors import ConfigError, EngineUnavailableError
from edgeembed.fleet import make_fleet, make_service
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.notify import Notifier, watched
from edgeembed.roster import ServedModel
from edgeembed.server.app import make_app
from edgeembed.server.front import put_in_front
from edgeembed.server.security import Access, Keys

log = logging.getLogger(__name__)

Announce = Callable[[str], None]

ONE_SIGNAL_SECONDS = 1.0


def check_address(settings: Settings) -> None:
    """Raise ConfigError when the address cannot or must not be listened on: before minutes go into fetching a model."""
    make_access(settings)
    make_tls(settings)
    if settings.uds:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError("uds: there are no Unix sockets on this system")
        return
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


def make_access(settings: Settings) -> Access:
    """Say who may ask. Raises ConfigError for an address that others reach while nothing would ask them for a key."""
    keys = Keys.read(settings.api_key, settings.api_key_file)
    local = bool(settings.uds) or _is_loopback(settings.host)
    if not (local or keys or settings.no_auth):
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and nothing asks them for a key. Listen on 127.0.0.1, set "
            "EDGEEMBED_API_KEY or --api-key-file, or say --no-auth if the network is yours alone"
        )
    return Access(
        keys=keys,
        check_host=not keys,
        loopback_only=local,
        hosts=frozenset(name.lower() for name in settings.allowed_hosts),
        origins=settings.allowed_origins,
    )


def make_tls(settings: Settings) -> ssl.SSLContext | None:
    """Read certificate and key; None without. Raises ConfigError."""
    if settings.certfile is None:
        if settings.keyfile is not None:
            raise ConfigError("keyfile is set without certfile")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use certfile {settings.certfile} (keyfile {settings.keyfile}): {error}") from error
    return context


async def serve(settings: Settings, paths: Paths, model: InstalledModel, announce: Announce) -> int:
    """Serve a model until SIGTERM or Ctrl-C; gives the exit status.

    announce: takes lines for a person at a terminal.
    """
    stop = _stop_on_signals()
    fleet = make_fleet(settings, paths, model)
    service = make_service(settings, paths, fleet)
    notifier = Notifier()
    store = Store(paths)

    def note_use(models: Sequence[ServedModel]) -> None:
        for used in models:
            store.mark_used(used.digest)

    app = make_app(
        service,
        preload=(*fleet.pinned, *fleet.preload),
        note_use=note_use,
        access=make_access(settings),
        max_body_bytes=settings.max_body_mib * 2**20,
    )
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        shutdown_timeout=settings.grace_period,
        handler_cancellation=True,  # a client that goes away frees its place
    )
    await runner.setup()
    put_in_front(runner)
    try:
        mask = os.umask(0o177) if settings.uds else None  # a socket is this user's alone from its first moment on
        try:
            await _site(runner, settings).start()
        except OSError as error:
            raise _cannot_listen(settings, error) from error
        finally:
            if mask is not None:
                os.umask(mask)
        url = _url(runner, settings)
        announce(f"edgeembed {__version__} listens on {url}, loading {model.name} {model.type}")
        loading = asyncio.create_task(service.pool.load(fleet.default))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            _announce_ready(fleet.default, await loading, url, announce)
            notifier.ready(f"{model.name} {model.type} on {url}")
            async with watched(notifier, service.check):
                await stopping
        else:
            loading.cancel()
        notifier.stopping()
        announce("stopping: requests in flight get to finish; Ctrl-C again to end at once")
    except EngineUnavailableError as error:
        announce(f"error: {error.message}. `edgeembed doctor` looks closer")
        return 1
    finally:
        await runner.cleanup()
    return 0


def _announce_ready(model: ServedModel, engine: Engine, url: str, announce: Announce) -> None:
    info, status = engine.info, engine.status
    assert info is not None
    for fall in status.falls:
        announce(f"rung {fall.rung} did not hold: {fall.reason}")
    size = f"{info.dimensions} dimensions, texts" if model.task == "embed" else "reranker, pairs"
    announce(f"ready: {model.name} ({size} up to {info.context_tokens} tokens) on rung {status.rung}")
    if model.task == "embed":
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
    if settings.uds:
        return ConfigError(f"cannot listen on {settings.uds}: {error.strerror or error}")
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


def _site(runner: web.AppRunner, settings: Settings) -> web.BaseSite:
    tls = make_tls(settings)
    if settings.uds is None:
        return web.TCPSite(runner, settings.host, settings.port, ssl_context=tls)
    path = Path(settings.uds)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "in use")
        path.unlink()  # left by a daemon that was killed
    return web.UnixSite(runner, path, ssl_context=tls)


def _url(runner: web.AppRunner, settings: Settings) -> str:
    scheme = "https" if settings.certfile else "http"
    if settings.uds:
        return f"{scheme}+unix://{settings.uds}"
    host, port = runner.addresses[0][:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(settings: Settings, paths: Paths, model: InstalledModel, announce: Announce) -> int:
    """Run `serve` on an event loop of its own."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(settings, paths, model, announce))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give what makes the event loop: uvloop where it exists, which answers a hit in half the time."""
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
