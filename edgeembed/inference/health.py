"""Whether the default model can compute: shown by a row that just came, or by a probe text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from edgeembed.common.status import EngineStatus
from edgeembed.engine.canary import defect
from edgeembed.engine.interface import INTERACTIVE, Engine, Pair, Row, Text
from edgeembed.errors import BadVectorError, EdgeEmbedError, EngineUnavailableError
from edgeembed.inference.drift import VectorHealth
from edgeembed.models.pool import ModelPool
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel

PROBES: Mapping[str, Text] = {"embed": "hello", "rerank": Pair("hello", "hello"), "classify": "hello"}
PROBE_FRESH_SECONDS = 5.0
"""A row that came this recently shows that the engine works."""
PROBE_EVERY_SECONDS = 60.0
PROBE_SECONDS = 2.0
LONGEST_BATCH_SECONDS = 60.0
"""A forward pass that takes longer than this hangs."""


class HealthCheck:
    """Checks the default model. Everything runs on one event loop."""

    def __init__(self, registry: ModelRegistry, pool: ModelPool, vectors: VectorHealth) -> None:
        self._registry = registry
        self._pool = pool
        self._vectors = vectors
        self._last_row_at: dict[tuple[str, str], float] = {}
        self._probed_at: dict[tuple[str, str], float] = {}
        self._wrong: dict[tuple[str, str], str] = {}
        """What was wrong with a model's last probe."""

    def note_row(self, model: ServedModel) -> None:
        """Note that a row of this model was just computed."""
        self._last_row_at[model.key] = time.monotonic()

    async def check(self) -> None:
        """Raise EngineError with the reason when the default model cannot compute now.

        A model that was unloaded because it was idle counts as healthy.
        """
        if self._registry.pending is not None:
            raise self._registry.pending.error()
        model = self._registry.default
        slot = self._pool.slot_of(model) if model else None
        if model is None or slot is None:
            return
        if slot.state != "ready" or slot.engine is None:
            raise EngineUnavailableError(slot.reason or "the model is loading", retry_after=1.0)
        status = slot.engine.status
        if status.state != "ready":
            raise EngineUnavailableError(status.reason or f"the engine is {status.state}", retry_after=1.0)
        now, never = time.monotonic(), float("-inf")
        fresh = now - self._last_row_at.get(model.key, never) < PROBE_FRESH_SECONDS
        # Rows of other texts show that it computes; the probe's row shows that it computes the same as ever.
        compared = now - self._probed_at.get(model.key, never) < PROBE_EVERY_SECONDS
        wrong = self._wrong.get(model.key)
        if fresh and compared and wrong is None and self._vectors.alarm(model) is None:
            return
        self._probed_at[model.key] = now
        if await self._probe(slot.engine, model):
            self.note_row(model)
        elif wrong is not None:
            raise BadVectorError(wrong)  # no probe has been right since

    async def _probe(self, engine: Engine, model: ServedModel) -> bool:
        """Compute the probe text; return whether its row came. A busy engine may not answer in time, which is no failure.

        Raises EngineUnavailableError when the engine hangs, BadVectorError when the row is wrong; that verdict stays until a
        probe shows otherwise.
        """
        reference = engine.info.reference if engine.info else None
        (future,) = engine.submit([reference.text if reference else PROBES[model.task]], INTERACTIVE)
        done, _ = await asyncio.wait([future], timeout=PROBE_SECONDS)
        if not done:
            future.cancel()
            if not _hangs(engine.status):
                return False
            raise EngineUnavailableError(f"the model has not answered for {PROBE_SECONDS:g} s")
        try:
            row = _result_of(future, model).vector
        except BadVectorError as error:
            self._judge(model, error.message)
            raise
        if reason := defect(row):
            self._judge(model, f"the model computes rows that are {reason}")
        elif reference is not None:
            if reason := self._vectors.probed(model, row, reference):
                engine.distrust(reason)
            self._judge(model, reason or self._vectors.probed_before(model, row, reference))
        return True

    def _judge(self, model: ServedModel, reason: str | None) -> None:
        """Note what is wrong with a probe's row, and raise BadVectorError; if nothing is, forget what was."""
        if reason is None:
            self._wrong.pop(model.key, None)
            return
        self._wrong[model.key] = reason
        raise BadVectorError(reason)


def _result_of(future: asyncio.Future[Row], model: ServedModel) -> Row:
    """Return the row of the probe text. Raises EdgeEmbedError, whose message is shown to everybody."""
    try:
        return future.result()
    except EdgeEmbedError as error:
        if model.upstream is None or isinstance(error, EngineUnavailableError):
            raise
        # The message is upstream's own, which may quote other texts.
        raise EngineUnavailableError("upstream does not compute the probe text") from error


def _hangs(status: EngineStatus) -> bool:
    return status.busy_since is None or time.time() - status.busy_since > LONGEST_BATCH_SECONDS
