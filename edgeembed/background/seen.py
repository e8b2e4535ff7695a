"""Who answers at the daemon's address, and in which state it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from edgeembed.client import Reply, connected, daemon_url, read_health, read_status
from edgeembed.common.status import DaemonStatus
from edgeembed.config.settings import Settings
from edgeembed.errors import EdgeEmbedError

ASK_SECONDS = 5.0

Who = Literal["edgeembed", "another program", "nobody"]


@dataclass(frozen=True)
class Seen:
    """What an address answers."""

    url: str
    who: Who
    status: DaemonStatus | None = None
    """None if it could not be read, for which `problem` has the reason."""
    problem: str | None = None
    paused: bool | None = None
    health: str = ""
    """The state that GET /health reports, for which no key is needed."""

    @property
    def running(self) -> bool:
        """Whether an edgeembed answers."""
        return self.who == "edgeembed"

    @property
    def pid(self) -> int | None:
        return self.status.pid if self.status else None

    @property
    def stage(self) -> str | None:
        """What the daemon does before it can compute, for people; None once it can, or if its model failed."""
        if self.status is None:
            return "starting" if self.health == "starting" else None
        if self.status.starting:
            return self.status.starting
        default = next((model for model in self.status.models if model.default), None)
        if default is not None and default.state in ("loading", "starting"):
            return f"loading {default.name} {default.type}"
        return None

    @property
    def failure(self) -> str | None:
        """Why the default model cannot compute; None if it can, or if that is not known yet."""
        if self.status is None or self.stage:
            return None
        default = next((model for model in self.status.models if model.default), None)
        if default is not None and default.state in ("failed", "stopped"):
            return default.reason or f"{default.name} cannot be served"
        return None

    @property
    def model(self) -> str:
        """Name, type, state and device of the default model, for people."""
        if self.status is None or self.status.model is None:
            return self.stage or "unknown"
        default = next((model for model in self.status.models if model.default), None)
        if default is None:
            return f"{self.status.model.name}, not loaded"
        words = [f"{default.name} {default.type}".strip(), default.state, *([default.device] if default.device else [])]
        return ", ".join(words)


def inspect(settings: Settings, seconds: float = ASK_SECONDS) -> Seen:
    """Ask the daemon's address."""
    return asyncio.run(_inspect(settings, seconds))


async def _inspect(settings: Settings, seconds: float) -> Seen:
    url = daemon_url(settings)
    async with connected(settings) as connection:
        reply = await connection.ask("/v1/status", seconds)
        if reply is None:
            return Seen(url, "nobody")
        if not reply.ours:
            return Seen(url, "another program")
        status, problem = _status_of(reply)
        health = await connection.ask("/health", seconds) if status is None else None
    if reply.status == 503:  # before it has a status
        return Seen(url, "edgeembed", None, problem, health="starting")
    return Seen(url, "edgeembed", status, problem, status.paused if status else None, _health_of(health))


def _status_of(reply: Reply) -> tuple[DaemonStatus | None, str | None]:
    if reply.status == 401:
        return None, "it requires an API key; set EDGEEMBED_API_KEY or api_key_file"
    if reply.status != 200:
        return None, f"it answers with status {reply.status}: {reply.reason}"
    try:
        return read_status(reply), None
    except EdgeEmbedError as error:
        return None, error.message


def _health_of(reply: Reply | None) -> str:
    if reply is None or reply.status not in (200, 503):
        return ""
    try:
        return read_health(reply).status
    except EdgeEmbedError:
        return ""
