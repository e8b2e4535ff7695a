"""Notices that the file of a loaded model was replaced or written to, and has the new one loaded.

A worker computes from its own memory, so a loaded model keeps the weights that its digest stands for, whatever happens to
its file. Requests go to the new file only after it was read, checked and given a digest of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from edgeembed.common.files import FileIdentity
from edgeembed.errors import EdgeEmbedError, EngineError
from edgeembed.hub.store import Store
from edgeembed.models.pool import ModelPool
from edgeembed.models.registry import ModelRegistry, ServedModel

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Between two looks at a file. One that is still being written is left alone until it is the same twice."""


class FileWatch:
    """Watches the files of loaded models. Everything runs on one event loop; files are read in a thread."""

    def __init__(self, registry: ModelRegistry, pool: ModelPool, store: Store) -> None:
        self._registry = registry
        self._pool = pool
        self._store = store
        self._seen: dict[tuple[str, str], FileIdentity] = {}
        """The file at the last look."""
        self._settled: dict[tuple[str, str], FileIdentity] = {}
        """Files about which nothing is to be done: the model's own, and those that cannot be served."""

    async def run(self) -> None:
        """Check the files of loaded models again and again."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Check the file of each model that is loaded, or failed to load; replace those with another content."""
        for slot in self._pool.slots:
            if slot.state not in ("ready", "failed") or slot.model.upstream:
                continue
            if await asyncio.to_thread(self._is_replaced, slot.model):
                await self._replace(slot.model)

    def _is_replaced(self, model: ServedModel) -> bool:
        """Return whether there is another file at the model's path, and it can be loaded."""
        try:
            file = FileIdentity.of(model.path)
        except OSError:  # it is gone, or cannot be reached now: what is loaded stays
            return False
        before, self._seen[model.key] = self._seen.get(model.key), file
        if file == self._settled.get(model.key) or file != before:
            return False
        try:
            found = self._store.identify(model.path)
            if found.sha256 != model.digest:
                self._store.require_sound(model)
                return True
        except EdgeEmbedError as error:
            with contextlib.suppress(OSError):
                if FileIdentity.of(model.path) != file:
                    return False  # it is being written
            log.warning("%s has changed, and cannot be loaded; the model in memory stays in use: %s", model.path, error)
        self._settled[model.key] = file
        return False

    async def _replace(self, old: ServedModel) -> None:
        log.warning("%s was replaced by another file, which is loaded now", old.path)
        self._registry.mark_stale()
        unloading = asyncio.create_task(self._pool.unload(old), name="unload a replaced model")
        await self._registry.refresh()
        for model in self._registry.models:
            if model.path == old.path and model.key != old.key:
                with contextlib.suppress(EngineError):  # logged, and shown by /health and to each request
                    await self._pool.load(model)
        await unloading
