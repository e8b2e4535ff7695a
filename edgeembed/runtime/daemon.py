"""The daemon: serves a model with its settings until a signal comes."""

from __future__ import annotations

import asyncio
import datetime
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgeembed.common.heap import configure_heap, trim_heap
from edgeembed.common.systemd import Notifier, watched
from edgeembed.common.tls import without_certificates
from edgeembed.config.resolution import Resolved
from edgeembed.engine.interface import Engine
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError
from edgeembed.hub.store import Store
from edgeembed.models.pending import PendingModel
from edgeembed.models.pool import ModelPool
from edgeembed.models.profiles import TuningResult, TuningResults
from edgeembed.models.served_model import ServedModel
from edgeembed.runtime.default_model import Announce, find_default
from edgeembed.runtime.models import find_configured_models
from edgeembed.runtime.replacement import FileWatch, ModelFiles
from edgeembed.runtime.service import adopt_default, make_service

log = logging.getLogger(__name__)

ONE_SIGNAL_SECONDS = 1.0
LEAD_SECONDS = 1.0
"""How long the port may stay closed so that a worker is started first."""
SWITCH_SECONDS = 0.0002
"""How long the event loop waits at most, whenever it wakes, for a thread that works on a large request or writes to the
cache. Python's default of 5 ms would be several times a query."""
RESTART = -1
"""In place of an exit status: the daemon was asked to start anew."""
COLLECTIONS = (5_000, 20, 20)
"""Python's garbage collector runs after so many new objects; then every 20th time on those of medium age, and every 20th
time of these on all, among them the rows in memory."""


async def serve(
    resolved: Resolved, sockets: Sequence[socket.socket], announce: Announce, idle_seconds: float | None = None
) -> int:
    """Serve the configured model until SIGTERM or Ctrl-C; return the exit status, RESTART if it is to start anew.

    sockets: see `listening`. announce: called with lines for a person at a terminal. idle_seconds: end once no model has
    been used for so long; None for never. Raises ConfigError when the address cannot be used, HubError when there is no
    model.
    """
    settings, paths = resolved.settings, resolved.paths
    stop = asyncio.Event()
    status = 0

    def end(how: int) -> None:
        nonlocal status
        status = how
        stop.set()

    _on_signals(lambda: end(0))  # while it ends to start anew, too
    pending = PendingModel("looking for the model", settings.load_wait)
    configured = find_configured_models(settings, paths)
    store = Store(paths)
    files = ModelFiles(store)
    service = make_service(settings, paths, configured, files, pending)
    notifier = Notifier()

    def note_use(models: Sequence[ServedModel]) -> None:
        for used in models:
            store.mark_used(used.digest)

    async def find_and_load() -> tuple[ServedModel, Engine]:
        try:
            found = await find_default(settings, paths, pending, announce, stop)
        except EdgeEmbedError:
            pending.fail()
            raise
        default = adopt_default(service, configured, found)
        return default, await service.pool.load(default)

    loading = asyncio.create_task(find_and_load())
    watching = asyncio.create_task(FileWatch(service.registry, service.pool, files).run(), name="model files")
    idling: asyncio.Task[None] | None = None
    try:
        # Importing it takes about as long as the worker takes to load a small model; both happen at the same time. The
        # worker is started first, as all that leads to it would wait for the import of each module.
        await _until_a_worker_runs(loading, pending, service.pool)
        await asyncio.to_thread(_import_server)
        from edgeembed.runtime.start_lines import listening_line, ready_lines
        from edgeembed.server.lifecycle import listening
        from edgeembed.server.ops.admin import Ending

        if loading.done():  # it has failed: nothing needs to listen
            await loading
        others = (*configured.pinned, *configured.preload)
        ending = Ending(stop=lambda: end(0), restart=lambda: end(RESTART))
        async with listening(service, resolved, others, note_use, ending, sockets) as url:
            gc.enable()  # `edgeembed serve` has disabled it
            announce(listening_line(settings, url, configured.default, pending.stage))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                default, engine = await loading
                if idle_seconds is not None:
                    idling = asyncio.create_task(end_when_idle(service.pool, idle_seconds, lambda: end(0)))
                for line in ready_lines(settings, url, default, engine):
                    announce(line)
                gc.freeze()  # collecting what stays anyway would hold up requests for tens of milliseconds
                trim_heap()
                if tuned := TuningResults(paths.state).find(default.digest):
                    announce(_tuned(tuned, engine))
                notifier.ready(f"{default.name} {default.type} on {url}")
                async with watched(notifier, service.check):
                    await stopping
            if status == RESTART:
                notifier.restarting()
            else:
                notifier.stopping()
            ends = "restarting" if status == RESTART else "stopping"
            announce(f"{ends}: requests in flight are finished first; Ctrl-C again to stop at once")
    except EngineUnavailableError as error:
        announce(f"error: {error.message}. Run `edgeembed doctor` to find out more")
        return 1
    finally:
        loading.cancel()
        watching.cancel()
        if idling is not None:
            idling.cancel()
        await service.pool.close()
    return status


async def end_when_idle(pool: ModelPool, seconds: float, stop: Callable[[], None]) -> None:
    """Call a function once no model of the pool has been used for so long, from now on."""
    used_at = time.monotonic()
    while (left := used_at + seconds - time.monotonic()) > 0:
        await asyncio.sleep(left)
        in_use = any(slot.leases for slot in pool.slots)
        used_at = time.monotonic() if in_use else max([used_at, *(slot.used_at for slot in pool.slots)])
    log.info("nobody has used it for %g s", seconds)
    stop()


async def _until_a_worker_runs(loading: asyncio.Task[Any], pending: PendingModel, pool: ModelPool) -> None:
    """Wait until the first worker is started, at most for `LEAD_SECONDS`, and not for a download."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LEAD_SECONDS
    while not (loading.done() or pending.is_fetching or loop.time() > until):
        if any(slot.engine is not None and slot.engine.status.worker_pid for slot in pool.slots):
            return
        await asyncio.sleep(0.001)


def _import_server() -> None:
    with without_certificates():
        importlib.import_module("edgeembed.server.lifecycle")


def _tuned(tuned: TuningResult, engine: Engine) -> str:
    """Return a line on how the model runs, and how that was found."""
    profile = tuned.profile
    found = [f"{profile.threads} thread{'s' * (profile.threads != 1)}"]
    if profile.pad_from_tokens is not None:
        found.append(f"padding from {profile.pad_from_tokens} tokens" if profile.pad_from_tokens else "no padding")
    if profile.left_types:
        found.append("llama.cpp's kernels for some types of weights")
    if engine.info is not None and engine.info.autotune is not None:
        source = f"when the model was loaded ({engine.info.autotune.seconds:.1f} s)"
    else:
        date = datetime.date.fromtimestamp(tuned.made_at)
        source = f"by `edgeembed tune` on {date}" if tuned.thorough else f"when the model was loaded on {date}"
    advice = "" if tuned.thorough else "; `edgeembed tune` measures more"
    return f"tuned {source}: {', '.join(found)}{advice}"


def _on_signals(stop: Callable[[], None]) -> None:
    """Call a function at SIGTERM and Ctrl-C; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    first = float("inf")

    def receive() -> None:
        nonlocal first
        # A launcher such as `uv run` forwards a Ctrl-C that the terminal has sent here too: both count as one.
        if loop.time() - first > ONE_SIGNAL_SECONDS:
            os._exit(130)  # the worker exits when its pipe is closed
        first = min(first, loop.time())
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, receive)
        except NotImplementedError:  # Windows' event loop
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(receive))


def run(resolved: Resolved, sockets: Sequence[socket.socket], announce: Announce, idle_seconds: float | None = None) -> int:
    """Run `serve` on a new event loop; return what it returns."""
    configure_heap()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*COLLECTIONS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(resolved, sockets, announce, idle_seconds))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of the event loop: uvloop where it is installed, which answers a cache hit in half the time."""
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
