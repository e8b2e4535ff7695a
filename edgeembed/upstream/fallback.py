"""The local model that answers while upstream is unavailable, once it is verified to be the same model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from edgeembed.engine.interface import BULK, INTERACTIVE, Engine, Float32Row, Row, Text, Tokenized, TokenWant
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, InputTooLongError
from edgeembed.upstream.identity import CANARY_TEXTS, Identity, least_cosine
from edgeembed.upstream.queue import PendingText

log = logging.getLogger(__name__)

FallbackState = Literal["off", "loading", "same", "different", "failed"]


class Fallback:
    """A local engine beside an upstream one. Everything runs on one event loop."""

    def __init__(self, make: Callable[[], Engine] | None, identity: Identity, min_cosine: float) -> None:
        """Take `make`, which makes the engine and is called in a thread; None: there is no fallback."""
        self._make = make
        self._identity = identity
        self._min_cosine = min_cosine
        self._unit = identity.normalised
        self._engine: Engine | None = None
        self.state: FallbackState = "loading" if make else "off"
        self.reason: str | None = "it is loading" if make else "there is no local fallback"
        self.cosine: float | None = None
        self.texts = 0
        """Number of texts answered."""

    @property
    def ready(self) -> bool:
        """Whether it is the same model and can answer now."""
        return self.state == "same" and self._engine is not None and self._engine.status.state == "ready"

    @property
    def worker_pid(self) -> int | None:
        return self._engine.status.worker_pid if self._engine else None

    async def start(self) -> None:
        """Load the local model and compare its canary rows with upstream's; the result is logged."""
        if self._make is None:
            return
        try:
            self._engine = await asyncio.to_thread(self._make)
            await self._engine.start()
            found = await asyncio.gather(*self._engine.submit(CANARY_TEXTS, INTERACTIVE), return_exceptions=True)
            rows = [None if isinstance(row, InputTooLongError) else _vector(row) for row in found]
        except EdgeEmbedError as error:
            self.state, self.reason = "failed", f"the local model cannot be loaded: {error.message}"
            log.error("no local fallback: %s", error.message)
            await self.close()
            return
        await self._compare(rows)

    async def _compare(self, rows: Sequence[Float32Row | None]) -> None:
        """Compare the texts that fit both models: the last one is too long for the smallest contexts."""
        pairs = [(here, there) for here, there in zip(rows, self._identity.canary_rows, strict=False) if here is not None]
        self.cosine = least_cosine([here for here, _ in pairs], [there for _, there in pairs])
        if self.cosine >= self._min_cosine:
            self.state, self.reason = "same", None
            log.info("the local fallback gives the same vectors as upstream: cosine %.4f or more", self.cosine)
            return
        self.state = "different"
        self.reason = f"the local model gives other vectors than upstream (cosine {self.cosine:.4f})"
        log.warning("no local fallback: %s, at least %g is required", self.reason, self._min_cosine)
        await self.close()

    def answer(self, texts: Sequence[PendingText]) -> None:
        """Compute texts with the local model."""
        assert self._engine is not None
        for priority in (INTERACTIVE, BULK):
            group = [text for text in texts if text.priority == priority]
            for text, local in zip(group, self._engine.submit([text.text for text in group], priority), strict=True):
                local.add_done_callback(lambda done, text=text: self._done(text, done))  # type: ignore[misc]
                text.future.add_done_callback(lambda _done, local=local: local.cancel())  # type: ignore[misc]

    def _done(self, text: PendingText, local: asyncio.Future[Row]) -> None:
        if local.cancelled():
            return
        error = local.exception()
        if isinstance(error, InputTooLongError):
            # Upstream would take it, so it is no mistake of the client: the same request succeeds once upstream is back.
            text.fail(EngineUnavailableError("upstream is unavailable, and the text is too long for the local fallback"))
        elif isinstance(error, Exception):
            text.fail(error)
        else:
            self.texts += 1
            text.finish(self._as_upstream(local.result()))

    def _as_upstream(self, row: Row) -> Row:
        """Normalise a row if upstream's rows are normalised, so that all rows of one model in the cache are alike."""
        if not self._unit:
            return row
        length = float(np.linalg.norm(row.vector.astype(np.float64)))
        return row._replace(vector=(row.vector / length).astype(np.float32)) if length else row

    def tokenize(self, texts: Sequence[Text], want: TokenWant) -> list[asyncio.Future[Tokenized]]:
        """Tokenize texts; the model, and so its vocabulary, is the same as upstream's."""
        assert self._engine is not None
        return self._engine.tokenize(texts, want)

    async def close(self) -> None:
        """Close the local engine, if there is one."""
        if self._engine is not None:
            await self._engine.close()


def _vector(outcome: Row | BaseException) -> Float32Row:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome.vector
