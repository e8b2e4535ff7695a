"""Runs the application on its address, from the first connection to the last response."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from msgspec.structs import replace

from edgeembed.client import daemon_url
from edgeembed.common.spans import Tracing
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.errors import EdgeEmbedError
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.served_model import ServedModel
from edgeembed.server import expectations, fast_path, paths, proxy
from edgeembed.server.access_log import AccessLog
from edgeembed.server.address import BACKLOG, addresses, cannot_listen, is_local, make_tls, read_keys
from edgeembed.server.aiohttp_internals import abort_connections, take_no_upgrades, wrap_handler
from edgeembed.server.app import NoteUse, make_app
from edgeembed.server.app_keys import ACCESS_LOG, TRACING
from edgeembed.server.auth import Access, origins_of
from edgeembed.server.connections import KEEP_ALIVE_SECONDS, ConnectionLimit, most_connections
from edgeembed.server.dialects import ollama_manage
from edgeembed.server.large_bodies import MOST_STRINGS
from edgeembed.server.live_settings import LIVE, LiveSettings
from edgeembed.server.model_manager import ModelManager
from edgeembed.server.ops import admin, admin_access, admin_models, admin_names, admin_reports, admin_settings
from edgeembed.server.ops.admin import Ending
from edgeembed.server.ops.end_reason import END_REASON, STOPPED
from edgeembed.server.request_log import HttpLog


@asynccontextmanager
async def listening(
    service: EmbeddingService,
    resolved: Resolved,
    preload: Sequence[ServedModel],
    note_use: NoteUse,
    ending: Ending,
    sockets: Sequence[socket.socket] = (),
) -> AsyncIterator[str]:
    """Listen as the settings say, and yield the URL; on exit, wait for requests in flight, at most the grace period.

    preload, note_use: see `make_app`. sockets: from `open_sockets`; without them, this opens its own.

    Raises ConfigError.
    """
    settings = resolved.settings
    app = make_app(
        service,
        preload=preload,
        note_use=note_use,
        access=make_access(settings),
        max_body_bytes=settings.max_body_mib * 2**20,
        max_request_texts=settings.max_request_texts or MOST_STRINGS,
    )
    _observe(app, settings)
    live = LiveSettings(resolved)
    add_owner_routes(app, live, ModelManager(service, live), ending)
    proxy.add_to(app, settings)
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        logger=HttpLog(),
        shutdown_timeout=settings.grace_period,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        handler_cancellation=True,  # so that a client that disconnects frees its place in the queue
    )
    await runner.setup()
    take_no_upgrades(runner)
    paths.install(runner)
    wrap_handler(runner, functools.partial(expectations.ahead_of, runner.app))
    fast_path.install(runner)
    ConnectionLimit(runner, most_connections())
    try:
        mask = os.umask(0o177) if settings.uds else None  # only this user may connect, from the start
        try:
            await _listen(runner, settings, sockets)
        finally:
            if mask is not None:
                os.umask(mask)
        yield _url(runner, settings)
    except EdgeEmbedError as error:
        app[END_REASON].begin(error.message)
        raise
    finally:
        app[END_REASON].begin(STOPPED)
        # aiohttp waits for the grace period twice: for handlers to finish, then again for those that did not.
        aborting = asyncio.get_running_loop().call_later(settings.grace_period, abort_connections, runner)
        await runner.cleanup()
        aborting.cancel()


def add_owner_routes(app: web.Application, live: LiveSettings, manager: ModelManager, ending: Ending) -> None:
    """Add the routes to an application that change the daemon and what is installed, which are for its owner."""
    app[LIVE] = live
    admin.add_to(app, ending)
    ollama_manage.add_to(app, manager)
    for module in (admin_models, admin_settings, admin_access, admin_names, admin_reports):
        module.add_to(app)


def _observe(app: web.Application, settings: Settings) -> None:
    """Add the access log and the spans that the settings ask for. Raises ConfigError."""
    tracing = Tracing() if settings.traces else None
    access_log = AccessLog(settings.access_log, settings.log_format) if settings.access_log is not None else None
    if tracing is not None:
        app[TRACING] = tracing
    if access_log is not None:
        app[ACCESS_LOG] = access_log

    async def close(_app: web.Application) -> None:
        if access_log is not None:
            await asyncio.to_thread(access_log.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app.on_cleanup.append(close)


def make_access(settings: Settings) -> Access:
    """Return the rules for access. Raises ConfigError."""
    keys = read_keys(settings)
    return Access(
        keys=keys,
        check_host=not keys,
        loopback_only=is_local(settings),
        hosts=frozenset(name.lower() for name in settings.allowed_hosts),
        origins=origins_of(settings),
    )


async def _listen(runner: web.AppRunner, settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Listen on the sockets, or else on the Unix socket or the addresses of the settings. Raises ConfigError."""
    tls = make_tls(settings)
    for opened in sockets:
        await web.SockSite(runner, opened, ssl_context=tls, backlog=BACKLOG).start()
    if sockets:
        return
    if settings.uds is not None:
        try:
            _remove_left_behind(Path(settings.uds))
            await web.UnixSite(runner, settings.uds, ssl_context=tls).start()
        except OSError as error:
            raise cannot_listen(settings, settings.host, error) from error
        return
    port = settings.port
    for host in addresses(settings):
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError as error:
            if port != settings.port:  # the system chose it for 127.0.0.1, and ::1 has another use for it
                continue
            raise cannot_listen(settings, host, error) from error
        port = runner.addresses[0][1]


def _remove_left_behind(path: Path) -> None:
    """Remove the socket of a daemon that was killed. Raises OSError if it is in use."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, "in use")
        path.unlink()


def _url(runner: web.AppRunner, settings: Settings) -> str:
    """Return the URL for programs on this machine."""
    return daemon_url(settings if settings.uds else replace(settings, port=runner.addresses[0][1]))
