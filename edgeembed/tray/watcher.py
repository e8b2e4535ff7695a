"""Looks at the daemon now and then, over HTTP, and tells it what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeembed.client import Reply, ask, daemon_url, read_status
from edgeembed.common.status import DaemonStatus, ListedModel
from edgeembed.config.settings import Settings
from edgeembed.errors import EdgeEmbedError
from edgeembed.tray.state import Child, Seen, read_models

MODELS_SECONDS = 30.0
"""How often is asked which models there are; the daemon looks at the disk for that."""
HEALTH_SECONDS = 60.0
"""How often is asked for GET /health: it may compute a row, and an idle machine should stay idle."""
ASK_SECONDS = 5.0


class Watcher:
    """Asks one daemon. Everything is called in one thread."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is asked yet."""
        self._settings = settings
        self._clock = clock
        self._models: tuple[ListedModel, ...] = ()
        self._disk_bytes: int | None = None
        self._alarm: str | None = None
        self._models_at = self._health_at = float("-inf")
        self._pid: int | None = None

    def look(self, child: Child | None = None) -> Seen:
        """Ask the daemon how it is; child: how the one is that the tray has started."""
        return asyncio.run(self._look(child))

    def look_closely(self) -> None:
        """Ask for everything at the next look, as something has been changed."""
        self._models_at = self._health_at = float("-inf")

    def tell(self, what: str, seconds: float = ASK_SECONDS) -> None:
        """Give the daemon an order: pause, resume, shutdown, cache/clear; seconds: that it may take.

        Raises EdgeEmbedError when it does not hear, or refuses.
        """
        reply = asyncio.run(ask(self._settings, f"/v1/admin/{what}", seconds, body={}))
        if reply is None:
            raise EdgeEmbedError(f"no daemon answers at {daemon_url(self._settings)}")
        if reply.status != 200:
            raise EdgeEmbedError(_refusal(reply))

    async def _look(self, child: Child | None) -> Seen:
        status_reply, admin_reply = await asyncio.gather(self._ask("/v1/status"), self._ask("/v1/admin"))
        if status_reply is None:
            return Seen(child=child)
        if not status_reply.ours:
            return Seen(problem=f"another program answers at {daemon_url(self._settings)}", child=child)
        if status_reply.status != 200:
            return Seen(problem=_refusal(status_reply), child=child)
        try:
            status = read_status(status_reply)
        except EdgeEmbedError as error:
            return Seen(problem=error.message, child=child)
        if status.pid != self._pid:
            self._pid = status.pid
            self._models, self._alarm, self._disk_bytes = (), None, None
            self.look_closely()
        await self._look_more(status)
        paused = admin_reply.body.get("paused") if admin_reply is not None and admin_reply.status == 200 else None
        return Seen(
            status,
            paused=paused if isinstance(paused, bool) else None,
            models=self._models,
            alarm=self._alarm,
            disk_bytes=self._disk_bytes,
            child=child,
        )

    async def _look_more(self, status: DaemonStatus) -> None:
        """Ask for what changes seldom, or costs the daemon something."""
        now = self._clock()
        if now - self._models_at >= MODELS_SECONDS:
            self._models_at = now
            reply = await self._ask("/v1/models")
            if reply is not None and reply.status == 200:
                try:
                    self._models = read_models(reply.body)
                except msgspec.ValidationError:
                    self._models = ()  # of a version whose form differs: the menu names none
            folder = status.cache.folder if status.cache else None
            self._disk_bytes = await asyncio.to_thread(folder_bytes, Path(folder)) if folder else None
        ready = status.engine is not None and status.engine.state == "ready"
        if ready and now - self._health_at >= HEALTH_SECONDS:
            self._health_at = now
            self._alarm = _alarm(await self._ask("/health"))
        elif not ready:
            self._alarm = None

    async def _ask(self, path: str) -> Reply | None:
        return await ask(self._settings, path, ASK_SECONDS)


def folder_bytes(folder: Path) -> int:
    """Give what the files of a folder take; those that go away meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _alarm(reply: Reply | None) -> str | None:
    """Say why GET /health is not well; what only takes time is none of that."""
    if reply is None or reply.body.get("status") in ("ok", "starting"):
        return None
    reason = reply.body.get("vectors") if reply.status == 200 else reply.body.get("reason")
    return str(reason) if reason else None


def _refusal(reply: Reply) -> str:
    if reply.status == 401:
        return "the daemon asks for a key; set EDGEEMBED_API_KEY or api_key_file"
    if reply.status == 404:
        return "this daemon is of an older version, which takes no orders; restart it"
    return f"the daemon answers with status {reply.status}: {reply.reason}"
