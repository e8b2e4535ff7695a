"""Polls the daemon over HTTP, and sends it commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgeembed.client import Reply, ask, daemon_url, read_health, read_status
from edgeembed.common.files import file_sizes
from edgeembed.common.status import DaemonStatus, ListedModel
from edgeembed.config.settings import Settings
from edgeembed.errors import DaemonGoneError, EdgeEmbedError
from edgeembed.tray.state import ChildStatus, PollResult, read_models

MODELS_SECONDS = 30.0
"""Seconds between requests for the list of models, for which the daemon reads the disk."""
HEALTH_SECONDS = 60.0
"""Seconds between requests to GET /health, which may compute a row: an idle machine should stay idle."""
REQUEST_SECONDS = 5.0


class UnsupportedError(EdgeEmbedError):
    """The daemon is of a version without a command."""


class Watcher:
    """Polls one daemon. All methods must be called in the same thread."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is requested yet."""
        self._settings = settings
        self._clock = clock
        self._models: tuple[ListedModel, ...] = ()
        self._disk_bytes: int | None = None
        self._alarm: str | None = None
        self._models_at = self._health_at = float("-inf")
        self._pid: int | None = None

    def poll(self, child: ChildStatus | None = None) -> PollResult:
        """Poll the daemon. child: the status of the daemon that the tray started, if any."""
        return asyncio.run(self._poll(child))

    def refresh_all(self) -> None:
        """Request everything at the next poll, because something has changed."""
        self._models_at = self._health_at = float("-inf")

    def send(self, command: str, seconds: float = REQUEST_SECONDS, body: dict[str, Any] | None = None) -> None:
        """Send pause, resume, shutdown, cache/clear or models/default. seconds: the timeout.

        Raises EdgeEmbedError if the daemon does not respond or refuses.
        """
        reply = asyncio.run(ask(self._settings, f"/v1/admin/{command}", seconds, body=body or {}))
        if reply is None:
            raise DaemonGoneError(f"no daemon answers at {daemon_url(self._settings)}")
        if reply.status == 404:
            raise UnsupportedError("the daemon is an older version without this command; restart it")
        if reply.status != 200:
            raise EdgeEmbedError(_error_of(reply))

    async def _poll(self, child: ChildStatus | None) -> PollResult:
        status_reply, admin_reply = await asyncio.gather(self._ask("/v1/status"), self._ask("/v1/admin"))
        if status_reply is None:
            return PollResult(child=child)
        if not status_reply.ours:
            return PollResult(problem=f"another program answers at {daemon_url(self._settings)}", child=child)
        if status_reply.status != 200:
            return PollResult(problem=_error_of(status_reply), child=child)
        try:
            status = read_status(status_reply)
        except EdgeEmbedError as error:
            return PollResult(problem=error.message, child=child)
        if status.pid != self._pid:
            self._pid = status.pid
            self._models, self._alarm, self._disk_bytes = (), None, None
            self.refresh_all()
        await self._poll_slow(status)
        paused = admin_reply.body.get("paused") if admin_reply is not None and admin_reply.status == 200 else None
        return PollResult(
            status,
            paused=paused if isinstance(paused, bool) else None,
            models=self._models,
            alarm=self._alarm,
            disk_bytes=self._disk_bytes,
            child=child,
        )

    async def _poll_slow(self, status: DaemonStatus) -> None:
        """Request, less often, what rarely changes or is expensive for the daemon."""
        now = self._clock()
        if now - self._models_at >= MODELS_SECONDS:
            self._models_at = now
            reply = await self._ask("/v1/models")
            if reply is not None and reply.status == 200:
                try:
                    self._models = read_models(reply.body)
                except msgspec.ValidationError:
                    self._models = ()  # the format of an incompatible version
            folder = status.cache.folder if status.cache else None
            sizes = await asyncio.to_thread(file_sizes, Path(folder)) if folder else None
            self._disk_bytes = None if sizes is None else sum(sizes.values())
        ready = status.engine is not None and status.engine.state == "ready"
        if ready and now - self._health_at >= HEALTH_SECONDS:
            self._health_at = now
            self._alarm = _alarm(await self._ask("/health"))
        elif not ready:
            self._alarm = None

    async def _ask(self, path: str) -> Reply | None:
        return await ask(self._settings, path, REQUEST_SECONDS)


def _alarm(reply: Reply | None) -> str | None:
    """Return the problem that GET /health reports; None if there is none or the daemon is still starting."""
    if reply is None or reply.status not in (200, 503):
        return None
    try:
        health = read_health(reply)
    except EdgeEmbedError:
        return None  # of a version with a different format
    if health.status in ("ok", "starting"):
        return None
    return (health.vectors if reply.status == 200 else health.reason) or None


def _error_of(reply: Reply) -> str:
    if reply.status == 401:
        return "the daemon requires an API key; set EDGEEMBED_API_KEY or api_key_file"
    return f"the daemon responded with status {reply.status}: {reply.reason}"
