"""Changes what is installed, loaded and the default, and names, while the server runs. The routes decide who may do that."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping
from typing import Any

from aiohttp import web

from edgeembed.config.file import read_config, write_entry, write_setting
from edgeembed.config.values import check_value
from edgeembed.errors import ConfigError, ConflictError, HubError, RequestError, quoted
from edgeembed.hub.other_names import LATEST, meaning
from edgeembed.hub.references import installed_name, looks_like_path, parse_reference, unfinished_files
from edgeembed.hub.store import Store
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.registry import Target
from edgeembed.models.served_model import ServedModel
from edgeembed.server.live_settings import LiveSettings
from edgeembed.server.owned_pulls import OwnedPulls
from edgeembed.server.pulls import Pulls

log = logging.getLogger(__name__)

_ALIAS = re.compile(r"\w[\w.-]*(?:/[\w.-]+)*(?::[\w.-]+)?", re.ASCII)
_LONGEST_ALIAS = 200
_LONGEST_NAME = 300
_HUBS = ("hf.co/", "huggingface.co/")
UNLOAD_SECONDS = 5.0
"""How long an owner waits for a model to be unloaded, which takes as long as its last texts."""


class ModelManager:
    """Installs and removes models, and adds and removes aliases. Everything runs on one event loop."""

    def __init__(self, service: EmbeddingService, live: LiveSettings) -> None:
        self.pulls = Pulls(live.settings)
        self.owned_pulls = OwnedPulls(self.pulls, live.paths.state, installed=self._rescan)
        self.store = Store(live.paths)
        self._tasks: set[asyncio.Task[object]] = set()
        self._registry = service.registry
        self._pool = service.pool
        self._live = live
        self._aliases = dict(live.settings.aliases)
        """The aliases of the settings, wherever they came from, with our own changes."""

    async def is_sound(self, model: ServedModel) -> bool:
        """Return whether an installed model's file is there and not known to be damaged."""
        if model.upstream:
            return True
        found = await asyncio.to_thread(self.store.find, model.name, model.type)
        return found is None or found.path != model.path or found.damage is None

    async def remove(self, model: ServedModel) -> None:
        """Unload an installed model and remove its files.

        Raises ConflictError for a model that is not in the store or that settings or aliases need, HubError if a file cannot
        be removed.
        """
        if model.upstream or not self.store.contains(model.path):
            raise ConflictError(f"{model.name!r} was not installed by edgeembed, so it is not removed here", param="model")
        if self._registry.default is not None and self._registry.default.path == model.path:
            raise ConflictError(
                f"{model.spec} is the default model, named by the settings; make another one the default first, or remove "
                f"it on the server's machine: edgeembed rm {model.spec}",
                param="model",
            )
        if self._registry.is_configured(model):
            raise ConflictError(
                f"{model.spec} is named by the settings (preload or pin); change them first, or remove it on the "
                f"server's machine: edgeembed rm {model.spec}",
                param="model",
            )
        if aliases := self._registry.aliases_of(model):
            raise ConflictError(
                f"{model.spec} has other names, which would mean nothing without it; delete them first: "
                f"{', '.join(sorted(aliases))}",
                param="model",
            )
        await self._unload(model)
        freed = await asyncio.to_thread(lambda: self.store.remove(self.store.at(model.path)))
        log.info("removed %s over HTTP, %d bytes", model.spec, freed)
        await self._rescan()

    async def load(self, model: ServedModel) -> None:
        """Begin to load a model; one that failed to load is tried again. What comes of it shows in the pool."""
        if (slot := self._pool.slot_of(model)) is not None and slot.state == "failed":
            await self._pool.unload(model)
        self._begin(self._pool.load(model))

    async def unload(self, model: ServedModel) -> None:
        """Begin to unload a model; it finishes the texts that wait for it first. Wait for that for a moment."""
        await asyncio.wait({self._begin(self._unload(model))}, timeout=UNLOAD_SECONDS)

    async def _unload(self, model: ServedModel) -> None:
        """Unload a model, one that is being loaded as soon as it is."""
        slot = self._pool.slot_of(model)
        if slot is not None and slot.state == "loading":
            await asyncio.wait({slot.outcome})
        await self._pool.unload(model)

    async def make_default(self, model: ServedModel) -> str | None:
        """Let requests that name no model get this one, from now on and after a restart; begin to load it.

        Return what the owner should know. Raises ConflictError while there is no default model, if another server computes
        it, or if config.toml cannot be written.
        """
        registry, live = self._registry, self._live
        before = registry.default
        if registry.pending is not None or before is None:
            raise ConflictError("the server has no default model yet; wait until it has", param="model")
        if before.upstream:
            raise ConflictError(
                f"the default model is the one of {before.upstream}; remove the setting upstream first", param="model"
            )
        spec = model.spec if self.store.contains(model.path) else str(model.path)
        async with live.changing:
            try:
                await asyncio.to_thread(write_setting, live.paths.config_file, "model", spec)
            except ConfigError as error:
                raise ConflictError(error.message) from error
            registry.change_default(model)
            live.adopt("model", spec)
        for each in (before, model):
            self._pool.keep_by_rules(each)
        await self.load(model)
        log.info("%s is the default model, by request over HTTP", model.spec)
        return live.hidden_note("model")

    async def discard(self, spec: str) -> int:
        """Remove what an unfinished download has fetched; return its bytes. Raises ConflictError if it is running."""

        def discard() -> int:
            name = spec
            if spec[:3].lower() == "hf:":
                reference = parse_reference(spec)
                name = installed_name(None, reference.repo, reference.file)
            parts = unfinished_files(name, self.store.unfinished())
            return sum(self.store.discard(name, files) for name, files in parts.items())

        try:
            return await asyncio.to_thread(discard)
        except HubError as error:
            raise ConflictError(error.message, param="model") from error

    async def close(self) -> None:
        """Interrupt all pulls; those of the owner are remembered."""
        await self.owned_pulls.close()
        await self.pulls.close()

    def _begin(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Do something in the background; what goes wrong is reported elsewhere."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def _rescan(self) -> None:
        self._registry.mark_stale()
        await self._registry.refresh()

    async def add_alias(self, alias: str, target: Target) -> None:
        """Let a name mean a model, at once and in config.toml.

        Raises RequestError for a name that is invalid or another model's, or if the aliases are not those of config.toml;
        ConfigError if it cannot be written.
        """
        if len(alias) > _LONGEST_ALIAS or not _ALIAS.fullmatch(alias):
            raise RequestError(
                f"destination {quoted(alias)} is invalid: expected letters, digits, '.', '_', '-' and '/', and after a "
                "colon a tag if needed",
                param="destination",
            )
        there = await self._registry.look_up(alias)  # which scans the disk, if need be
        if there is not None and not self._registry.is_alias(alias):
            if there == target:
                return
            raise RequestError(
                f"{quoted(alias)} is a name of {there.model.spec}, which is installed; choose another one",
                param="destination",
            )
        model = target.model
        meant = model.spec if model.upstream or self.store.contains(model.path) else str(model.path)
        await self._write_alias(alias, meant + target.suffix)
        log.info("%s has one more name, added over HTTP", model.spec)

    async def remove_alias(self, alias: str) -> None:
        """Remove a name that is an alias. Raises RequestError, ConfigError; see `add_alias`."""
        await self._write_alias(alias, None)

    async def _write_alias(self, alias: str, meant: str | None) -> None:
        """Change config.toml and the registry."""
        async with self._live.changing:
            await asyncio.to_thread(self._write_entry, alias, meant)
            self._registry.set_alias(alias, meant)

    @property
    def aliases(self) -> dict[str, str]:
        """The aliases in effect, and what they mean."""
        return dict(self._aliases)

    def take_aliases(self, aliases: Mapping[str, str]) -> None:
        """Let other aliases be in effect, in place of all before. config.toml has them already."""
        for alias in {*self._aliases, *aliases}:
            self._registry.set_alias(alias, aliases.get(alias))
        self._aliases = dict(aliases)

    def _write_entry(self, alias: str, meant: str | None) -> None:
        file = self._live.paths.config_file
        written = check_value("aliases", read_config(file).get("aliases", {}), "config.toml", file)
        if not self._aliases.items() <= written.items():
            raise RequestError(
                "config.toml does not have the aliases that this server started with: they come from a flag or a variable, "
                "which replaces the file's, or the file was edited since. Change them there, and restart"
            )
        # Names are found in any case, keys of TOML are not.
        name = next((each for each in written if each.lower() == alias.lower()), alias)
        write_entry(file, "aliases", name, meant)
        self._aliases.pop(name, None)
        if meant is not None:
            self._aliases[name] = meant
        self._live.adopt("aliases", dict(self._aliases))


def pull_spec(given: str) -> str:
    """Return the model to pull in the words of `edgeembed pull`. Raises RequestError for a file of this machine."""
    spec = bare_name(given)
    if len(spec) > _LONGEST_NAME or not spec.isprintable():
        raise RequestError(f"invalid model name: {quoted(spec)}", param="model")
    if (found := meaning(spec)) is not None:
        return found.spec
    for hub in _HUBS:
        if spec.lower().startswith(hub):
            return f"hf:{spec[len(hub) :]}"
    if spec[:3].lower() != "hf:" and looks_like_path(spec):
        raise RequestError(
            f"invalid model name: {quoted(spec)} is neither in the catalogue nor on the model hub, which is written "
            "hf.co/OWNER/REPOSITORY; a file is installed on the server's machine: edgeembed pull FILE",
            param="model",
        )
    return spec


def bare_name(name: str) -> str:
    """Return a name without the tag that Ollama adds to one without a tag."""
    return name[: -len(LATEST)] if name.lower().endswith(LATEST) else name


MANAGER: web.AppKey[ModelManager] = web.AppKey("manager")
