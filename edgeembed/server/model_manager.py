"""Changes what is installed, and its names, while the server runs. Who may do that is decided by the routes."""

from __future__ import annotations

import asyncio
import logging
import re

from aiohttp import web

from edgeembed.config.file import read_config, write_entry
from edgeembed.config.values import check_value
from edgeembed.errors import RequestError, quoted
from edgeembed.hub.store import Store
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.registry import Target
from edgeembed.models.served_model import ServedModel
from edgeembed.server.live_settings import LiveSettings
from edgeembed.server.pulls import Pulls

log = logging.getLogger(__name__)

_ALIAS = re.compile(r"\w[\w.-]*(?:/[\w.-]+)*(?::[\w.-]+)?", re.ASCII)
_LONGEST_ALIAS = 200


class ModelManager:
    """Installs and removes models, and adds and removes aliases. Everything runs on one event loop."""

    def __init__(self, service: EmbeddingService, live: LiveSettings) -> None:
        self.pulls = Pulls(live.settings)
        self.store = Store(live.paths)
        self._registry = service.registry
        self._pool = service.pool
        self._live = live
        self._aliases = dict(live.settings.aliases)
        """The aliases of the settings, wherever they came from, with our own changes."""
        self._changing = asyncio.Lock()

    async def is_sound(self, model: ServedModel) -> bool:
        """Return whether an installed model's file is there and not known to be damaged."""
        if model.upstream:
            return True
        found = await asyncio.to_thread(self.store.find, model.name, model.type)
        return found is None or found.path != model.path or found.damage is None

    async def remove(self, model: ServedModel) -> None:
        """Unload an installed model and remove its files.

        Raises RequestError for a model that is not in the store or that settings or aliases need, HubError if a file cannot
        be removed.
        """
        if model.upstream or not self.store.contains(model.path):
            raise RequestError(f"{model.name!r} was not installed by edgeembed, so it is not removed here", param="model")
        if self._registry.is_configured(model):
            raise RequestError(
                f"{model.spec} is named by the settings (model, preload or pin); change them first, or remove it on the "
                f"server's machine: edgeembed rm {model.spec}",
                param="model",
            )
        if aliases := self._registry.aliases_of(model):
            raise RequestError(
                f"{model.spec} has other names, which would mean nothing without it; delete them first: "
                f"{', '.join(sorted(aliases))}",
                param="model",
            )
        await self._pool.unload(model)
        freed = await asyncio.to_thread(lambda: self.store.remove(self.store.at(model.path)))
        log.info("removed %s over HTTP, %d bytes", model.spec, freed)
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
        there = self._registry.find(alias)
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
        async with self._changing:
            await asyncio.to_thread(self._write_entry, alias, meant)
            self._registry.set_alias(alias, meant)

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


MANAGER: web.AppKey[ModelManager] = web.AppKey("manager")
