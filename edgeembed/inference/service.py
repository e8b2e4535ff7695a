"""The whole way of a request, minus HTTP: model, prompt, cache, texts in flight, engine, vectors."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import msgspec

from edgeembed.cache import CachedRow, KeyMaker, VectorCache
from edgeembed.common.status import EngineStatus
from edgeembed.engine.canary import defect
from edgeembed.engine.interface import INTERACTIVE, Engine, Pair, Row, Text
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EmptyInputError,
    EngineUnavailableError,
    InputTooLongError,
    RequestError,
)
from edgeembed.inference import token_ids
from edgeembed.inference.cleaning import clean, without_surrogates
from edgeembed.inference.drift import VectorHealth
from edgeembed.inference.pipeline import MOST_REQUEST_TOKENS, RowSource, Wish
from edgeembed.inference.pipeline import CacheUse as CacheUse
from edgeembed.inference.postprocess import Matrix, relevance, unit_rows
from edgeembed.inference.single_flight import TextError
from edgeembed.inference.tokenize import TokenizeRequest, TokenizeResult, tokenize
from edgeembed.inference.truncation import ANY_LENGTH, Lengths
from edgeembed.models.pool import ModelPool
from edgeembed.models.prompts import InputType, choose_prompt
from edgeembed.models.registry import ModelRegistry, ServedModel

log = logging.getLogger(__name__)

INTERACTIVE_TEXTS = 4
"""A request with at most this many texts is somebody waiting; a larger one is a bulk load."""
INTERACTIVE_PAIRS = 100
"""The same for the documents of a rerank request, which somebody nearly always waits for."""
PROBES: Mapping[str, Text] = {"embed": "hello", "rerank": Pair("hello", "hello")}
PROBE_FRESH_SECONDS = 5.0
"""A row that came this recently shows that the engine works."""
PROBE_EVERY_SECONDS = 60.0
PROBE_SECONDS = 2.0
LONGEST_BATCH_SECONDS = 60.0
"""A forward pass that runs longer than this hangs."""


class EmbedRequest(msgspec.Struct, frozen=True):
    """Texts to embed, and how. `param` names the request field that holds the texts, for error messages."""

    texts: Sequence[str]
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    dimensions: int | None = None
    param: str = "input"
    single: bool = False
    """The field held one string, not a list: error messages name no index."""
    cache: CacheUse = "on"
    lengths: Lengths = ANY_LENGTH
    ids: Sequence[Sequence[int]] | None = None
    """Token ids of the model, in place of texts, which is empty then."""
    repeatable: bool = False
    """Compute the texts by themselves, past the cache: the same texts give the same bits each time."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text of which a part was cut off: its place in the request, the tokens that were read, and those that it has."""

    index: int
    tokens: int
    full: int


class EmbedResult(msgspec.Struct, dict=True):
    """The rows of a request, in its order.

    keys: what each row is cached under; hits: texts answered from the cache; hot: the model as the cache names it, if all of
    them came from memory.
    """

    model: ServedModel
    keys: Sequence[bytes]
    rows: Sequence[Row | CachedRow]
    dimensions: int | None
    hits: int
    hot: str | None = None

    @cached_property
    def vectors(self) -> Matrix:
        """Unit rows, float32, shape (texts, dimensions)."""
        cut = self.model.matryoshka
        rows = [row.vector for row in self.rows]
        return unit_rows(rows, self.dimensions, layer_norm=cut is not None and cut.layer_norm)

    @property
    def tokens(self) -> list[int]:
        """Tokens of each text, as far as it was read."""
        return [row.tokens for row in self.rows]

    @property
    def cuts(self) -> list[Cut]:
        """The texts that were too long, if those were to be cut."""
        return _cuts(self.rows)


class RerankRequest(msgspec.Struct, frozen=True):
    """Documents to score against a query. `param` names the request field that holds the documents."""

    query: str
    documents: Sequence[str]
    model: str | None = None
    instruction: str | None = None
    param: str = "documents"
    single: bool = False
    cache: CacheUse = "on"
    lengths: Lengths = ANY_LENGTH


@dataclass(frozen=True)
class RerankResult:
    """scores: relevance of each document in the request's order, 0 to 1; tokens: of each pair; hits: from the cache.

    cuts: the pairs whose document was cut.
    """

    model: ServedModel
    scores: list[float]
    tokens: list[int]
    hits: int
    cuts: list[Cut]


class EmbeddingService:
    """Answers requests for every model of the registry. Everything runs on one event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        pool: ModelPool,
        cache: VectorCache | None,
        *,
        timeout: float = 600.0,
        max_queue_tokens: int = 0,
        max_request_tokens: int = MOST_REQUEST_TOKENS,
        clean_text: bool = True,
        vectors: VectorHealth | None = None,
        devices: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Tie the parts together; pool and cache are opened and closed by the caller.

        timeout: seconds after which a request is given up. max_queue_tokens: tokens that may wait for one model, and
        max_request_tokens: tokens of all texts of one request to embed; 0 is any number. clean_text: whether texts are
        cleaned (see `inference.cleaning`). vectors: watches the computed rows. devices: tells what there is to compute on;
        it may take a while.
        """
        self.registry = registry
        self.pool = pool
        self.cache = cache
        self.vectors = vectors or VectorHealth()
        self.devices = devices
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests answered, by the model's key, and in the same way `texts`."""
        self.texts: Counter[tuple[str, str]] = Counter()
        self._timeout = timeout
        self.max_request_tokens = max_request_tokens or None
        self._clean = clean if clean_text else without_surrogates
        self._source = RowSource(pool, cache, timeout=timeout, max_queue_tokens=max_queue_tokens)
        self._keys: dict[tuple[str, str], tuple[KeyMaker, str]] = {}
        """How each model's keys are made, and how the cache's statistics name it."""
        self._last_row_at: dict[tuple[str, str], float] = {}
        self._probed_at: dict[tuple[str, str], float] = {}

    # --- requests -----------------------------------------------------------------------------------------------------

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Embed the texts of one request, in their order.

        Raises a RequestError for what the client did wrong, an EngineError otherwise.
        """
        target = await self.registry.resolve(request.model, "embed")
        model = target.model
        input_type = request.input_type or target.input_type
        prompt = choose_prompt(model.prompts, input_type, request.instruction, request.model or model.name)
        texts = [self._clean(text) for text in request.texts]
        if "" in texts:
            _refuse_empty("", _place(request, texts.index("")))
        _check_dimensions(model, request.dimensions, model.dimensions)
        maker, label = self._key_maker(model)
        identity, ids = prompt.identity, request.ids
        names, kind = (texts, "") if ids is None else (token_ids.names_of(ids, partial(_place, request)), token_ids.KIND)
        keys = [maker.key(identity, name, kind) for name in names]
        interactive = len(keys) <= INTERACTIVE_TEXTS and not request.repeatable
        frequent = interactive and input_type != "document"
        # A row of a whole text is what every request wants that sets no limit of its own.
        looks = frequent and request.lengths.max_tokens is None and request.cache in ("on", "no-store")
        if self.cache and looks and (hot := self.cache.get_hot(keys, label)):
            _check_dimensions(model, request.dimensions, len(hot[0].vector))
            self.count(model.key, len(keys))
            return EmbedResult(model, keys, hot, request.dimensions, len(keys), hot=label)
        wish = Wish(
            model=model,
            maker=maker,
            label=label,
            identity=identity,
            names=names,
            kind=kind,
            keys=keys,
            texts=prompt.around(texts) if ids is None else token_ids.texts_of(ids, prompt),
            param=request.param,
            lengths=request.lengths,
            use="off" if request.repeatable else request.cache,
            interactive=interactive,
            frequent=frequent or request.cache == "keep",
            isolated=request.repeatable,
            most_tokens=self.max_request_tokens,
        )
        rows, hits = await self._rows(wish, request)
        _check_dimensions(model, request.dimensions, len(rows[0].vector) if rows else None)
        self.count(model.key, len(keys))
        if hits < len(keys):
            self.vectors.observe(model, input_type, keys, rows)
        return EmbedResult(model, keys, rows, request.dimensions, hits)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score the documents of one request, in their order.

        Raises a RequestError for what the client did wrong, an EngineError otherwise.
        """
        target = await self.registry.resolve(request.model, "rerank")
        model = target.model
        query = self._clean(request.query)
        documents = [self._clean(document) for document in request.documents]
        _refuse_empty(query, "query")
        for index, document in enumerate(documents):
            _refuse_empty(document, _place(request, index))
        prompt = json.dumps(["rerank", request.instruction, query])
        maker, label = self._key_maker(model)
        few = len(documents) <= INTERACTIVE_PAIRS
        wish = Wish(
            model=model,
            maker=maker,
            label=label,
            identity=prompt,
            names=documents,
            keys=[maker.key(prompt, document) for document in documents],
            texts=[Pair(query, document, request.instruction) for document in documents],
            param=request.param,
            lengths=request.lengths,
            use=request.cache,
            interactive=few,
            frequent=few or request.cache == "keep",
        )
        rows, hits = await self._rows(wish, request)
        self.count(model.key, len(documents))
        scores = [relevance(row.vector) for row in rows]
        return RerankResult(model, scores, [row.tokens for row in rows], hits, _cuts(rows))

    async def count_tokens(self, request: TokenizeRequest) -> TokenizeResult:
        """Tokenise the texts of one request as an embedder would read them; see `tokenize`."""
        return await tokenize(self.registry, self.pool, self._clean, request, self._timeout)

    async def _rows(self, wish: Wish, request: EmbedRequest | RerankRequest) -> tuple[list[Row | CachedRow], int]:
        """Give the row of each text, in order, and how many of them the cache had."""
        try:
            rows, hits = await self._source.rows(wish)
        except TextError as failure:
            if isinstance(failure.error, BadVectorError):
                self.vectors.refused(wish.model)
            raise _blame(failure, wish.keys, request, wish.model) from failure.error
        if hits < len(rows):
            self._last_row_at[wish.model.key] = time.monotonic()
        return rows, hits

    def waiting_tokens(self, model: ServedModel) -> float:
        """Estimate the tokens of a model's requests that are not finished."""
        return self._source.waiting_tokens(model)

    def _key_maker(self, model: ServedModel) -> tuple[KeyMaker, str]:
        key = model.key
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = KeyMaker(model.digest, model.task), f"{model.spec}@{model.digest[:12]}"
        return known

    def count(self, model: tuple[str, str], texts: int) -> None:
        """Count a request that was answered, by the model's key."""
        self.requests[model] += 1
        self.texts[model] += texts

    # --- health -------------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Show that the default model can compute now, by a row that just came or by a probe.

        One that is unloaded because nobody uses it is well. Raises EngineError with the reason when it is not.
        """
        model = self.registry.default
        slot = self.pool.slot_of(model) if model else None
        if model is None or slot is None:
            return
        if slot.state != "ready" or slot.engine is None:
            raise EngineUnavailableError(slot.reason or "the model is loading", retry_after=1.0)
        status = slot.engine.status
        if status.state != "ready":
            raise EngineUnavailableError(status.reason or f"the engine is {status.state}", retry_after=1.0)
        now, never = time.monotonic(), float("-inf")
        fresh = now - self._last_row_at.get(model.key, never) < PROBE_FRESH_SECONDS
        # Other texts' rows show that it computes; the probe's shows that it computes what it always did.
        compared = now - self._probed_at.get(model.key, never) < PROBE_EVERY_SECONDS
        if fresh and compared and self.vectors.alarm(model) is None:
            return
        self._probed_at[model.key] = now
        if await self._probe(slot.engine, model):
            self._last_row_at[model.key] = time.monotonic()

    async def _probe(self, engine: Engine, model: ServedModel) -> bool:
        """Say whether a row came; none comes when the engine is busy with a long text, which is work, not illness."""
        (future,) = engine.submit([PROBES[model.task]], INTERACTIVE)
        done, _ = await asyncio.wait([future], timeout=PROBE_SECONDS)
        if not done:
            future.cancel()
            if not _hangs(engine.status):
                return False
            raise EngineUnavailableError(f"the model has not answered for {PROBE_SECONDS:g} s")
        row = future.result()
        if reason := defect(row.vector):
            raise BadVectorError(f"the model gives rows that are {reason}")
        if model.task == "embed" and (reason := self.vectors.probed(model, row.vector)):
            raise BadVectorError(reason)
        return True


def _cuts(rows: Sequence[Row | CachedRow]) -> list[Cut]:
    return [Cut(index, row.tokens, row.full) for index, row in enumerate(rows) if isinstance(row, Row) and row.full]


def _refuse_empty(text: str, place: str) -> None:
    if not text:
        raise EmptyInputError(f"{place} is empty; a text needs a character that is no control character", param=place)


def _check_dimensions(model: ServedModel, asked: int | None, there_are: int | None) -> None:
    if asked is not None and there_are is not None and not 1 <= asked <= there_are:
        raise RequestError(
            f"dimensions must be between 1 and {there_are}, which is what model {model.name!r} has; {asked} was asked for",
            param="dimensions",
        )


def _blame(
    failure: TextError, keys: Sequence[bytes], request: EmbedRequest | RerankRequest, model: ServedModel
) -> EdgeEmbedError:
    """Say which input of this request failed, in the request's own terms."""
    error = failure.error
    place = _place(request, keys.index(failure.key))
    match error:
        case InputTooLongError():
            what = f"{place} with its query" if isinstance(request, RerankRequest) else place
            lengths = request.lengths
            by_client = lengths.max_tokens is not None and (lengths.own or lengths.max_tokens <= error.limit)
            who = f", and {lengths.asked} allows" if by_client else f"; model {model.name!r} takes at most"
            return InputTooLongError(
                f"{what} has {error.tokens} tokens{who} {error.limit}. Split the text, or shorten it",
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


def _place(request: EmbedRequest | RerankRequest, index: int) -> str:
    return request.param if request.single else f"{request.param}[{index}]"


def _hangs(status: EngineStatus) -> bool:
    return status.busy_since is None or time.time() - status.busy_since > LONGEST_BATCH_SECONDS
