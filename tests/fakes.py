"""A deterministic engine without a model: a text always gives the same row, and tests decide when and how it answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeembed.cache import VectorCache
from edgeembed.engine.protocol import EngineStatus, Float32Row, ModelInfo, Pair, Priority, Prompted, Row, Task, Text
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, InputTooLongError
from edgeembed.hub.catalogue import Prompts
from edgeembed.pool import ModelPool, PoolRules
from edgeembed.roster import Roster, ServedModel
from edgeembed.service import EmbeddingService

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
        self.loaded = asyncio.Event()
        """Cleared by a test that wants the model to take its time."""
        self.loaded.set()
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
        await self.loaded.wait()
        if self.state == "failed":
            raise EngineUnavailableError(self.reason or "failed")

    async def close(self) -> None:
        self.closed = True
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(EngineUnavailableError("closed"))

    def submit(self, texts: Sequence[Text], priority: Priority) -> list[asyncio.Future[Row]]:
        loop = asyncio.get_running_loop()
        futures = []
        for each in texts:
            match each:
                case str():
                    text = each
                case Pair(query, document, instruction):
                    text = f"{instruction}|{query}|{document}"
                case Prompted(prefix, inner, suffix):
                    text = prefix + inner + suffix
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


def fake_model(name: str = "fake-model", task: Task = "embed", prompts: Prompts | None = None) -> ServedModel:
    """Give a model that a fake engine can stand for."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ServedModel(
        name,
        digest,
        type="F32",
        task=task,
        prompts=prompts,
        dimensions=DIMENSIONS if task == "embed" else None,
        created=1_700_000_000,
    )


def fake_service(
    engine: FakeEngine,
    cache: VectorCache | None = None,
    *,
    prompts: Prompts | None = None,
    aliases: Mapping[str, str] | None = None,
    timeout: float = 20.0,
    max_queue_tokens: int = 0,
    clean_text: bool = True,
) -> EmbeddingService:
    """Make a service of one model on a fake engine."""
    roster = Roster(fake_model(prompts=prompts), aliases=aliases)
    pool = ModelPool(lambda _model: engine, PoolRules(budget_bytes=1))
    return EmbeddingService(roster, pool, cache, timeout=timeout, max_queue_tokens=max_queue_tokens, clean_text=clean_text)
