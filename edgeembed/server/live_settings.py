"""The settings in effect, and what the daemon's owner changes of them while it runs."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.config.secrets import ENV_PREFIX
from edgeembed.config.settings import Settings
from edgeembed.config.values import Origin


class LiveSettings:
    """The settings with which the daemon started, and those that took effect since."""

    def __init__(self, resolved: Resolved) -> None:
        self.settings: Settings = resolved.settings
        self.paths: Paths = resolved.paths
        self.changing = asyncio.Lock()
        """Held by who changes config.toml, or a file that it names."""
        self._origins = dict(resolved.origins)

    def origin(self, name: str) -> Origin:
        """Return where the value in effect comes from."""
        return self._origins.get(name, "default")

    def source(self, name: str) -> str:
        """Return where the value in effect comes from, for people."""
        origin = self.origin(name)
        return "variable" if origin == "environment" else origin

    def is_hidden(self, name: str) -> bool:
        """Return whether config.toml is without effect on a setting: a flag or a variable wins over it."""
        return self.origin(name) in ("flag", "environment")

    def hidden_note(self, name: str) -> str | None:
        """Return what the owner should know whose change of config.toml is without effect after a restart; else None."""
        match self.origin(name):
            case "flag":
                by = f"the flag --{name.replace('_', '-')}"
            case "environment":
                by = f"the variable {ENV_PREFIX}{name.upper()}"
            case _:
                return None
        return (
            f"it is written to {self.paths.config_file}, but {by} wins over that file at every start; change it there, too"
        )

    def adopt(self, name: str, value: Any, *, written: bool = True) -> None:
        """Note that a value is in effect from now on. written: config.toml has it; otherwise it is the default."""
        self.settings = replace(self.settings, **{name: value})
        if not self.is_hidden(name):
            self._origins[name] = "config.toml" if written else "default"


LIVE: web.AppKey[LiveSettings] = web.AppKey("live settings")
