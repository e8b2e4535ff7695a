"""The slot of a model in the pool: its state, its engine, its leases."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Literal

from edgeembed.engine.interface import Engine
from edgeembed.errors import EdgeEmbedError
from edgeembed.models.served_model import ServedModel

SlotState = Literal["loading", "ready", "failed", "unloading"]

_ages = itertools.count()


@dataclass(eq=False)
class Slot:
    """One model that is loading, loaded, failed or being unloaded."""

    model: ServedModel
    keep_alive: float | None
    pinned: bool
    outcome: asyncio.Future[Engine]
    state: SlotState = "loading"
    engine: Engine | None = None
    error: EdgeEmbedError | None = None
    failed_at: float = 0.0
    memory_bytes: int = 0
    """0 until there is room for the model."""
    leases: int = 0
    used: int = field(default_factory=lambda: next(_ages))
    """Grows with each use: the smallest was used least recently."""
    used_at: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)
    load_seconds: float = 0.0
    """How long loading took, if it is ready."""
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None

    @property
    def reason(self) -> str | None:
        """Why it is not ready."""
        if self.error is not None:
            return self.error.message
        return self.engine.status.reason if self.engine else None

    @property
    def is_movable(self) -> bool:
        """Whether it may be unloaded for another model."""
        return self.state == "ready" and not self.pinned

    def note_use(self) -> None:
        """Note that it is used now."""
        self.used, self.used_at = next(_ages), time.monotonic()

    def stop_timer(self) -> None:
        """Stop the time of its keep-alive, if it runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
