"""Notices that the file of a loaded model was replaced or written to, and has the new one loaded.

A worker computes from its own memory, so a loaded model keeps the weights that its digest stands for, whatever happens to
its file. Requests go to the new file only after it was read, checked, given a digest of its own, and loaded.
"""

from __future__ import annotations

import asyncio
import logging

from edgeembed.common.files import FileIdentity
from edgeembed.errors import EdgeEmbedError, EngineError
from edgeembed.hub.store import Store
from edgeembed.models.pool import ModelPool
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel, served
from edgeembed.models.slot import Slot

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Time between two checks of a file. A file that is being written is left alone until two checks find it the same."""


class ModelFiles:
    """Decides whether another file has taken the place of a model's. May be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[tuple[str, str], FileIdentity] = {}
        """The file at the last check, by the model's key."""
        self._settled: dict[tuple[str, str], FileIdentity] = {}
        """Files that need no action: the model's own, and those that cannot be served."""

    def is_replaced(self, model: ServedModel) -> bool:
        """Return whether there is another file at the model's path, which is complete and may be loaded."""
        try:
            file = FileIdentity.of(model.path)
        except OSError:  # it is gone, or cannot be reached now
            return False
        before, self._seen[model.key] = self._seen.get(model.key), file
        if file == self._settled.get(model.key) or file != before:
            return False
        try:
            if self._store.identify(model.path).sha256 != model.digest:
                if damage := self._store.damage(model, read_again=False):
                    raise damage
                self._store.require_sound(model)
                return True
            self._settled[model.key] = file
        except EdgeEmbedError as error:
            self.refuse(model, file, error)
        return False

    def refuse(self, model: ServedModel, file: FileIdentity | None, error: EdgeEmbedError) -> None:
        """Note that a file cannot take the model's place until it is written to again. file: None for the last one."""
        file = file or self._seen[model.key]
        try:
            if FileIdentity.of(model.path) != file:
                return  # it is being written: that explains the error
        except OSError:
            return
        self._settled[model.key] = file
        log.warning("%s was replaced by a file that cannot be served, so the old one stays: %s", model.path, error.message)

    def current(self, model: ServedModel) -> ServedModel:
        """Return the model that is now at a model's path. Raises HubError, OSError."""
        return served(self._store.at(model.path))


class FileWatch:
    """Watches the files of loaded models. Everything runs on one event loop; files are read in a thread."""

    def __init__(self, registry: ModelRegistry, pool: ModelPool, files: ModelFiles) -> None:
        self._registry = registry
        self._pool = pool
        self._files = files

    async def run(self) -> None:
        """Check the files of loaded models every CHECK_SECONDS."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.check()
            except (EdgeEmbedError, OSError) as error:  # the disk may work at the next check
                log.warning("cannot check the files of the loaded models: %s", error)

    async def check(self) -> None:
        """Check the file of each model that is loaded, or failed to load; if it was replaced, load and serve the new one."""
        for slot in self._pool.slots:
            if slot.state not in ("ready", "failed") or slot.model.upstream:
                continue
            here = [model.key for model in self._registry.models if model.path == slot.model.path]
            if here and slot.model.key not in here:
                await self._pool.unload(slot.model)  # a scan has found the new file first
            elif await asyncio.to_thread(self._files.is_replaced, slot.model):
                await self._replace(slot)

    async def _replace(self, slot: Slot) -> None:
        """Serve the file that is now at the path of a slot's model."""
        old = slot.model
        try:
            new = await asyncio.to_thread(self._files.current, old)
            if _computes_on_processor(slot):
                await self._pool.load(new)  # beside the old one, which serves meanwhile
        except (EdgeEmbedError, OSError) as error:
            failure = error if isinstance(error, EdgeEmbedError) else EngineError(str(error))
            self._files.refuse(old, None, failure)
            return
        log.warning("%s was replaced by another file, which is served from now on", old.path)
        self._registry.mark_stale()
        await self._registry.refresh()
        await self._pool.unload(old)


def _computes_on_processor(slot: Slot) -> bool:
    """Return whether a slot's engine works, without a graphics card; a card is not asked to hold two models."""
    return slot.engine is not None and not slot.engine.is_over and slot.engine.status.offload is None
