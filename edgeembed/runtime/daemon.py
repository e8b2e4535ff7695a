"""The daemon put together: settings and a model in, a running server out, until a signal comes."""

from __future__ import annotations

import asyncio
import datetime
import gc
import importlib
import logging
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeembed import __version__
from edgeembed.common.systemd import Notifier, watched
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Engine
from edgeembed.errors import EngineUnavailableError
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.models.profiles import TuningResult, TuningResults
from edgeembed.models.registry import ServedModel
from edgeembed.runtime.assembly import find_configured_models, make_remote, make_service

if TYPE_CHECKING:
    from edgeembed.upstream.remote import Remote

log = logging.getLogger(__name__)

Announce = Callable[[str], None]

ONE_SIGNAL_SECONDS = 1.0


async def serve(settings: Settings, paths: Paths, model: InstalledModel | None, announce: Announce) -> int:
    """Serve a model until SIGTERM or Ctrl-C; gives the exit status.

    model: None for the one that the setting `upstream` stands for. announce: takes lines for a person at a terminal. Raises
    ConfigError when the address cannot be had.
    """
    stop = _stop_on_signals()
    try:
        configured_models = find_configured_models(
            settings, paths, model or await _meet_upstream(settings, paths, stop, announce)
        )
    except EngineUnavailableError as error:
        announce(f"error: {error.message}")
        return 1
    service = make_service(settings, paths, configured_models)
    notifier = Notifier()
    store = Store(paths)

    def note_use(models: Sequence[ServedModel]) -> None:
        for used in models:
            store.mark_used(used.digest)

    default = configured_models.default
    loading = asyncio.create_task(service.pool.load(default))
    try:
        # Its import takes as long as the worker takes to load a small model, in a process of its own, meanwhile.
        await asyncio.to_thread(importlib.import_module, "edgeembed.server.lifecycle")
        from edgeembed.server.lifecycle import listening

        async with listening(
            service, settings, (*configured_models.pinned, *configured_models.preload), note_use, stop.set
        ) as url:
            announce(f"edgeembed {__version__} listens on {url}, loading {default.name} {default.type}")
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                engine = await loading
                _announce_ready(default, engine, url, announce)
                gc.freeze()  # what is there stays: looking through it again holds up every request for tens of milliseconds
                if tuned := TuningResults(paths.state).find(default.digest):
                    announce(_tuned(tuned, engine))
                notifier.ready(f"{default.name} {default.type} on {url}")
                async with watched(notifier, service.check):
                    await stopping
            notifier.stopping()
            announce("stopping: requests in flight get to finish; Ctrl-C again to end at once")
    except EngineUnavailableError as error:
        announce(f"error: {error.message}. `edgeembed doctor` looks closer")
        return 1
    finally:
        loading.cancel()
        await service.pool.close()
    return 0


async def _meet_upstream(settings: Settings, paths: Paths, stop: asyncio.Event, announce: Announce) -> Remote:
    """Learn which model the upstream server has. Raises EngineUnavailableError, ConfigError."""
    remote = await make_remote(settings, paths)
    announce(f"upstream {settings.upstream} computes {remote.model}")
    if remote.entry is None:
        announce("the catalogue does not know it: input_type puts no prompt around texts")
    await remote.meet(settings.load_timeout, stop)
    return remote


def _announce_ready(model: ServedModel, engine: Engine, url: str, announce: Announce) -> None:
    info, status = engine.info, engine.status
    assert info is not None
    for demotion in status.demotions:
        announce(f"mode {demotion.mode} did not hold: {demotion.reason}")
    size = f"{info.dimensions} dimensions, texts" if model.task == "embed" else "reranker, pairs"
    up_to = f" up to {info.context_tokens} tokens" if info.context_tokens else " as long as upstream takes them"
    announce(f"ready: {model.name} ({size}{up_to}) on mode {status.mode}")
    if model.task == "embed":
        where = f"{_for_curl(url)}/v1/embeddings"
        announce(f"""try:   curl -s {where} -H 'content-type: application/json' -d '{{"input":"hello"}}'""")


def _tuned(tuned: TuningResult, engine: Engine) -> str:
    """Say how the model runs, and who found that out."""
    profile = tuned.profile
    found = [f"{profile.threads} thread{'s' * (profile.threads != 1)}"]
    if profile.pad_from_tokens is not None:
        found.append(
            f"texts from {profile.pad_from_tokens} tokens on are filled up" if profile.pad_from_tokens else "no filling up"
        )
    if engine.info is not None and engine.info.autotune is not None:
        who = f"a first look at this machine ({engine.info.autotune.seconds:.1f} s)"
    else:
        who = f"{'`edgeembed tune`' if tuned.thorough else 'a first look'} on {datetime.date.fromtimestamp(tuned.made_at)}"
    closer = "" if tuned.thorough else "; `edgeembed tune` looks closer"
    return f"tuned: {', '.join(found)}, says {who}{closer}"


def _for_curl(url: str) -> str:
    """Write an address as curl takes it, which knows a Unix socket by an option only."""
    scheme, is_socket, path = url.partition("+unix://")
    return f"--unix-socket {shlex.quote(str(Path(path).absolute()))} {scheme}://localhost" if is_socket else url


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


def run(settings: Settings, paths: Paths, model: InstalledModel | None, announce: Announce) -> int:
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
