"""The whole way of a request, minus HTTP: prompt, cache, texts in flight, engine, vectors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgeembed.cache import KeyMaker, VectorCache
from edgeembed.engine.canary import defect
from edgeembed.engine.protocol import BULK, INTERACTIVE, Engine, EngineStatus, Row
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EmptyInputError,
    EngineTimeoutError,
    EngineUnavailableError,
    InputTooLongError,
    ModelNotFoundError,
    RequestError,
)
from edgeembed.hub.catalogue import Prompts
from edgeembed.text import InputType, choose_prompt
from edgeembed.vectors import Matrix, unit_rows

log = logging.getLogger(__name__)

INTERACTIVE_TEXTS = 4
"""A request with at most this many texts is somebody waiting; a larger one is a bulk load."""
PROBE_TEXT = "hello"
PROBE_FRESH_SECONDS = 5.0
"""A row that came this recently shows that the engine works."""
PROBE_SECONDS = 2.0
LONGEST_BATCH_SECONDS = 60.0
"""A forward pass that runs longer than this hangs."""


@dataclass(frozen=True)
class ServedModel:
    """The model that requests reach, as far as a request needs to know."""

    name: str
    digest: str
    """SHA-256 of the model file."""
    aliases: tuple[str, ...] = ()
    prompts: Prompts | None = None
    created: int = 0
    """Unix seconds at which the file was installed."""


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to embed, and how. `param` names the request field that holds the texts, for error messages."""

    texts: Sequence[str]
    input_type: InputType | None = None
    instruction: str | None = None
    dimensions: int | None = None
    param: str = "input"
    single: bool = False
    """The field held one string, not a list: error messages name no index."""


@dataclass(frozen=True)
class EmbedResult:
    """vectors: unit rows, float32, shape (texts, dimensions); tokens: of each text; hits: texts answered from the cache."""

    vectors: Matrix
    tokens: list[int]
    hits: int


class _Flight:
    """One text that is being computed, and how many requests wait for it."""

    __slots__ = ("future", "waiters")

    def __init__(self, future: asyncio.Future[Row]) -> None:
        self.future = future
        self.waiters = 0


class EmbeddingService:
    """Answers requests for one model. Everything runs on one event loop."""

    def __init__(self, model: ServedModel, engine: Engine, cache: VectorCache | None, *, timeout: float = 600.0) -> None:
        """Tie the parts together; engine and cache are started and stopped by the caller.

        timeout: seconds after which a request is given up.
        """
        self.model = model
        self.engine = engine
        self.cache = cache
        self._timeout = timeout
        self._flights: dict[bytes, _Flight] = {}
        self._keys: KeyMaker | None = None
        self._last_row_at = float("-inf")

    # --- requests -----------------------------------------------------------------------------------------------------

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFoundError unless the request's model is the one served."""
        if name is None or name == self.model.name or name in self.model.aliases:
            return
        raise ModelNotFoundError(
            f"the model {name!r} is not served here; {self.model.name!r} is. GET /v1/models lists what is", param="model"
        )

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Embed the texts of one request, in their order.

        Raises a RequestError for what the client did wrong, an EngineError otherwise.
        """
        prompt = choose_prompt(self.model.prompts, request.input_type, request.instruction, self.model.name)
        for index, text in enumerate(request.texts):
            if not text:
                raise EmptyInputError(
                    f"{_place(request, index)} is an empty string; a text needs at least one character",
                    param=_place(request, index),
                )
        try:
            async with asyncio.timeout(self._timeout):
                await self._model_known()
                self._check_dimensions(request.dimensions)
                keys = self._make_keys(prompt.identity, request.texts)
                rows = await self.cache.get_many(dict.fromkeys(keys)) if self.cache else {}
                hits = sum(key in rows for key in keys)
                texts = {key: text for key, text in zip(keys, request.texts, strict=True) if key not in rows}
                if texts:
                    rows |= await self._compute(
                        {key: prompt.apply(text) for key, text in texts.items()}, bulk=len(keys) > INTERACTIVE_TEXTS
                    )
        except TimeoutError:
            raise EngineTimeoutError(
                f"no answer within {self._timeout:g} s; send fewer texts at a time or raise request_timeout", retry_after=1.0
            ) from None
        except _TextError as failure:
            raise self._blame(failure, keys, request) from failure.error
        vectors = unit_rows([rows[key].vector for key in keys], request.dimensions)
        return EmbedResult(vectors, [rows[key].tokens for key in keys], hits)

    async def _compute(self, texts: dict[bytes, str], *, bulk: bool) -> dict[bytes, Row]:
        """Compute rows, joining texts that other requests are computing already. Raises _TextError."""
        new = {key: text for key, text in texts.items() if key not in self._flights}
        futures = self.engine.submit(list(new.values()), BULK if bulk else INTERACTIVE)
        for key, future in zip(new, futures, strict=True):
            self._flights[key] = _Flight(future)
            future.add_done_callback(lambda done, key=key: self._landed(key, done))  # type: ignore[misc]
        joined = {key: self._flights[key] for key in texts}
        for flight in joined.values():
            flight.waiters += 1
        try:
            await asyncio.wait([flight.future for flight in joined.values()], return_when=asyncio.FIRST_EXCEPTION)
            for key, flight in joined.items():
                if flight.future.done() and (error := flight.future.exception()):
                    raise _TextError(key, error)
            return {key: flight.future.result() for key, flight in joined.items()}
        finally:
            for key, flight in joined.items():
                flight.waiters -= 1
                if flight.waiters == 0 and not flight.future.done():
                    # Nobody waits any more: the text gives up its place in the queue.
                    self._flights.pop(key, None)
                    flight.future.cancel()

    def _landed(self, key: bytes, future: asyncio.Future[Row]) -> None:
        """Take a finished text out of flight and keep its row, if it is one that may be kept."""
        flight = self._flights.get(key)
        if flight is not None and flight.future is future:
            del self._flights[key]
        if future.cancelled() or future.exception() is not None:
            return
        self._last_row_at = time.monotonic()
        if self.cache:
            self.cache.put(key, future.result())

    async def _model_known(self) -> None:
        """Wait until the engine was ready once: limits and pooling come from the loaded model."""
        if self._keys is None:
            await self.engine.start()
            info = self.engine.info
            assert info is not None
            self._keys = KeyMaker(self.model.digest, info.pooling)

    def _make_keys(self, prompt: str, texts: Sequence[str]) -> list[bytes]:
        assert self._keys is not None
        return [self._keys.key(prompt, text) for text in texts]

    def _check_dimensions(self, dimensions: int | None) -> None:
        info = self.engine.info
        assert info is not None
        if dimensions is not None and not 1 <= dimensions <= info.dimensions:
            raise RequestError(
                f"dimensions must be between 1 and {info.dimensions}, which is what model {self.model.name!r} has; "
                f"{dimensions} was asked for",
                param="dimensions",
            )

    def _blame(self, failure: _TextError, keys: list[bytes], request: EmbedRequest) -> EdgeEmbedError:
        """Say which input of this request failed, in the request's own terms."""
        error = failure.error
        place = _place(request, keys.index(failure.key))
        match error:
            case InputTooLongError():
                return InputTooLongError(
                    f"{place} has {error.tokens} tokens; model {self.model.name!r} takes at most {error.limit}. "
                    "Split the text, or shorten it",
                    tokens=error.tokens,
                    limit=error.limit,
                    param=place,
                )
            case EmptyInputError():
                return EmptyInputError(f"{place} holds nothing that the model can read", param=place)
            case EngineUnavailableError():
                return EngineUnavailableError(error.message, retry_after=5.0)
            case EdgeEmbedError():
                return type(error)(f"{place}: {error.message}", param=place)
            case _:
                raise error

    # --- health -------------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Show that the model can embed now, by a row that just came or by embedding a text.

        Raises EngineUnavailableError with the reason when it cannot.
        """
        status = self.engine.status
        if status.state != "ready":
            raise EngineUnavailableError(status.reason or f"the engine is {status.state}", retry_after=1.0)
        if time.monotonic() - self._last_row_at < PROBE_FRESH_SECONDS:
            return
        (future,) = self.engine.submit([PROBE_TEXT], INTERACTIVE)
        done, _ = await asyncio.wait([future], timeout=PROBE_SECONDS)
        if not done:
            future.cancel()
            if not _hangs(self.engine.status):
                return  # busy with a long text, which is work, not illness
            raise EngineUnavailableError(f"the model has not answered for {PROBE_SECONDS:g} s")
        row = future.result()
        if reason := defect(row.vector):
            raise BadVectorError(f"the model gives rows that are {reason}")
        self._last_row_at = time.monotonic()


class _TextError(Exception):
    """The engine has no row for the text with this key."""

    def __init__(self, key: bytes, error: BaseException) -> None:
        super().__init__(str(error))
        self.key = key
        self.error = error


def _place(request: EmbedRequest, index: int) -> str:
    return request.param if request.single else f"{request.param}[{index}]"


def _hangs(status: EngineStatus) -> bool:
    return status.busy_since is None or time.time() - status.busy_since > LONGEST_BATCH_SECONDS
