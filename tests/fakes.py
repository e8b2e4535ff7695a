"""A deterministic engine without a model: a text always gives the same row, and tests decide when and how it answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from edgeembed.engine.protocol import EngineStatus, Float32Row, ModelInfo, Priority, Row
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, InputTooLongError

DIMENSIONS = 16
CONTEXT_TOKENS = 20


def fake_row(text: str, dimensions: int = DIMENSIONS) -> Float32Row:
    """Give the row that FakeEngine computes for a text: from its digest, not normalised."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return (np.random.default_rng(seed).standard_normal(dimensions) * 3).astype(np.float32)


class FakeEngine:
    """An `Engine` whose tokens are words.

    paused: texts wait until `resume`.
    failing: gives the error of a text, or None.
    """

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        self.computed: list[str] = []
        self.priorities: list[Priority] = []
        self.cancelled: list[str] = []
        self.paused = False
        self.failing: Callable[[str], EdgeEmbedError | None] = lambda _text: None
        self.state = "ready"
        self.reason: str | None = None
        self.busy_since: float | None = None
        self.row_of: Callable[[str], Float32Row] = lambda text: fake_row(text, self.dimensions)
        self.closed = False
        self._waiting: list[tuple[str, asyncio.Future[Row]]] = []

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            architecture="fake",
            name="fake",
            dimensions=self.dimensions,
            context_tokens=CONTEXT_TOKENS,
            pooling="mean",
            file_type="F32",
            parameters=0,
            size_bytes=0,
            llama_cpp="none",
        )

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self.state,  # type: ignore[arg-type]
            reason=self.reason,
            rung="fake",
            falls=[],
            restarts=0,
            texts_computed=len(self.computed),
            batches_computed=0,
            texts_waiting=len(self._waiting),
            busy_since=self.busy_since,
        )

    async def start(self) -> None:
        if self.state == "failed":
            raise EngineUnavailableError(self.reason or "failed")

    async def close(self) -> None:
        self.closed = True

    def submit(self, texts: Sequence[str], priority: Priority) -> list[asyncio.Future[Row]]:
        loop = asyncio.get_running_loop()
        futures = []
        for text in texts:
            future: asyncio.Future[Row] = loop.create_future()
            future.add_done_callback(lambda done, text=text: done.cancelled() and self.cancelled.append(text))
            self.priorities.append(priority)
            self._waiting.append((text, future))
            futures.append(future)
        if not self.paused:
            loop.call_soon(self.resume)
        return futures

    def resume(self) -> None:
        """Answer every text that waits."""
        waiting, self._waiting = self._waiting, []
        for text, future in waiting:
            if future.done():
                continue
            tokens = len(text.split()) + 2
            if error := self.failing(text):
                future.set_exception(error)
            elif tokens > CONTEXT_TOKENS:
                future.set_exception(InputTooLongError(f"{tokens} tokens", tokens=tokens, limit=CONTEXT_TOKENS))
            else:
                self.computed.append(text)
                future.set_result(Row(self.row_of(text), tokens))
