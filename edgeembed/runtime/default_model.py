"""Finds the daemon's default model while the daemon already listens: on the disk, on the hub, or on the upstream server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from edgeembed.common.progress import StepReport
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError
from edgeembed.hub.catalogue import DEFAULT_MODEL
from edgeembed.hub.install import ensure_installed, find_here, first_model
from edgeembed.hub.store import InstalledModel
from edgeembed.models.pending import PendingModel
from edgeembed.runtime.upstream import make_remote

if TYPE_CHECKING:
    from edgeembed.upstream.remote import Remote

T = TypeVar("T")

_THREAD = "find model"

Announce = Callable[[str], None]


class _Report(StepReport):
    """Passes on lines, and tells requests about the steps."""

    replaces_bar = False

    def __init__(self, announce: Announce, pending: PendingModel) -> None:
        self._announce = announce
        self._pending = pending

    def __call__(self, line: str) -> None:
        self._announce(line)

    def step(self, what: str, done: int, total: int) -> None:
        self._pending.step(what, done, total)


async def find_default(
    settings: Settings, paths: Paths, pending: PendingModel, announce: Announce, stop: asyncio.Event
) -> InstalledModel | Remote:
    """Return the default model, which is downloaded if need be. pending: told what is done.

    Raises EdgeEmbedError or a subclass, not EngineUnavailableError.
    """
    if settings.upstream:
        try:
            return await _find_on_upstream(settings, paths, stop, announce)
        except EngineUnavailableError as error:
            raise EdgeEmbedError(error.message) from error
    report = _Report(announce, pending)

    def find() -> InstalledModel:
        found = find_here(settings.model or DEFAULT_MODEL, paths=paths, report=report)
        if found is None:
            # Which one it will be for a user who named none depends on the hub; the steps name it.
            pending.begin_fetch(f"fetching {settings.model or 'the first model'}")
        if settings.model is None:
            return first_model(paths=paths, settings=settings, report=report)
        return found or ensure_installed(settings.model, paths=paths, settings=settings, report=report)

    return await _in_thread(find)


def is_finding() -> bool:
    """Return whether the thread that fetches the model still runs, such as after a signal has stopped the daemon."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


async def _find_on_upstream(settings: Settings, paths: Paths, stop: asyncio.Event, announce: Announce) -> Remote:
    """Return the upstream server's model, after contacting the server. Raises EngineUnavailableError, ConfigError."""
    remote = await make_remote(settings, paths)
    announce(f"upstream {settings.upstream} computes {remote.model}")
    if remote.entry is None:
        announce("it is not in the catalogue: input_type has no effect, as its prompts are unknown")
    await remote.identify(settings.load_timeout, stop)
    return remote


async def _in_thread(work: Callable[[], T]) -> T:
    """Do work in a thread that does not keep the process alive: a download may take minutes when the daemon is to stop."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if outcome.done():  # cancelled
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    return await outcome
