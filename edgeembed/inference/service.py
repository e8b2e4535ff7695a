"""The service: requests for every model, without HTTP.

`embed`, `rerank` and `classify` resolve the model, prepare the texts, and hand them to the pipeline
(`edgeembed.inference.pipeline`).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from edgeembed.cache import CachedRow, KeyMaker, StoredResponse, VectorCache
from edgeembed.common.trace import traced
from edgeembed.engine.interface import DENSE, Output, Prompted, Role, Row, Side, Text
from edgeembed.errors import BadVectorError, EngineUnavailableError, RequestError, WrongTaskError
from edgeembed.inference import classifying, token_ids
from edgeembed.inference.aside import Aside, size_of
from edgeembed.inference.cleaning import clean, without_surrogates
from edgeembed.inference.drift import VectorHealth
from edgeembed.inference.health import HealthCheck
from edgeembed.inference.limits import MOST_NUMBERS
from edgeembed.inference.pipeline import Pipeline, PipelineResult
from edgeembed.inference.requests import (
    ClassifyRequest,
    ClassifyResult,
    DetokenizeRequest,
    EmbedRequest,
    EmbedResult,
    LongText,
    RerankRequest,
    RerankResult,
    TokenizeRequest,
    TokenizeResult,
    place_of,
)
from edgeembed.inference.reranking import (
    best_windows,
    embed_requests,
    prepare_pairs,
    result_of_pairs,
    result_of_tokens,
    result_of_vectors,
)
from edgeembed.inference.row_request import RowRequest, refuse_empty
from edgeembed.inference.tokenize import detokenize, refuse_repeated, tokenize
from edgeembed.inference.windows import Windows, pooled
from edgeembed.models.pool import ModelPool
from edgeembed.models.prompts import InputType, choose_prompt, prefixed
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

MOST_LISTED_TOKENS = 300_000
"""Each takes much more memory in an answer than in a text."""
ROWS_AT_ONCE = 2048
"""Rows that statistics are made of without a break."""
INTERACTIVE_TEXTS = 4
"""A request with at most this many texts has somebody waiting for it; a larger one is a bulk load."""
_OUTPUT_NAMES: dict[Output, str] = {
    "dense": "dense vectors",
    "multi": "vectors of tokens for late interaction",
    "sparse": "sparse vectors",
    "tokens": "hidden states of tokens",
}
_OUTPUT_FIELDS: dict[Output, str] = {"multi": '"multi_vector": true', "sparse": '"sparse": true'}
_ID_CHARACTERS = 8
"""A token id counts as so many characters of text."""


@dataclass(frozen=True)
class ServiceOptions:
    """timeout: of a request, or of each part of a large one, in seconds.

    clean_text: whether texts are cleaned (see `inference.cleaning`).
    max_queue_tokens: limit on the tokens that wait for one model. max_request_tokens: limit on the tokens of one request to
    embed. For both, 0 is no limit. truncate, long_text: what happens to texts that are too long, if a request does not say.
    """

    timeout: float = 600.0
    max_queue_tokens: int = 0
    max_request_tokens: int = 0
    truncate: Side = "none"
    long_text: LongText = "none"
    clean_text: bool = True


class EmbeddingService:
    """Answers requests for every model of the registry. Everything runs on one event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        pool: ModelPool,
        cache: VectorCache | None,
        options: ServiceOptions = ServiceOptions(),
        *,
        vectors: VectorHealth | None = None,
        devices: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Connect the parts; pool and cache are opened and closed by the caller.

        vectors: watches the computed rows. devices: returns what there is to compute on; may block.
        """
        self.registry = registry
        self.pool = pool
        self.cache = cache
        self.vectors = vectors or VectorHealth()
        self.devices = devices
        self.requests: Counter[tuple[str, str]] = Counter()
        """Answered requests by the model's key."""
        self.texts: Counter[tuple[str, str]] = Counter()
        """Their texts, or pairs."""
        self.outputs: Counter[tuple[tuple[str, str], str]] = Counter()
        """Those texts by the model's key and an output; a text may have several."""
        self.truncate = options.truncate
        self.long_text = options.long_text
        self.max_request_tokens = options.max_request_tokens or None
        self.max_listed_tokens = min(MOST_LISTED_TOKENS, options.max_request_tokens or MOST_LISTED_TOKENS)
        """Tokens that one answer may list."""
        self._timeout = options.timeout
        self._clean = clean if options.clean_text else without_surrogates
        self.aside = Aside()
        self._pipeline = Pipeline(
            pool, cache, self.aside, timeout=options.timeout, max_queue_tokens=options.max_queue_tokens
        )
        self._windows = Windows(pool, cache, self.aside, options.timeout, self._pipeline.context_of)
        self._health = HealthCheck(registry, pool, self.vectors)
        self._key_makers: dict[tuple[str, str], tuple[KeyMaker, str]] = {}
        """For each model what makes its keys, and its label in the cache."""

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Embed the texts of one request, in their order.

        Raises RequestError for a client's mistake, EngineError for a failure of ours.
        """
        return await self._unless_replaced(self._embed, request)

    async def _embed(self, request: EmbedRequest) -> EmbedResult:
        target = await self.registry.resolve(request.model, "embed", input_type=request.input_type)
        model, input_type = target.model, request.input_type or target.input_type
        check_outputs(model, request.outputs)
        _check_dimensions(model, request.dimensions, model.dimensions)
        prepared = await self.aside.run(_size(request), self._prepare_texts, request, model, input_type)
        # There is a mean of dense rows only; windows of others are for reranking.
        divides = request.long_text == "chunks" or (request.long_text == "mean" and request.outputs == DENSE)
        whole, windowed = prepared, None
        if divides and (windowed := await self._windows.cut(whole)):
            prepared = windowed.request
        rows, hits, from_memory = await self._run(prepared)
        label = prepared.label if from_memory else None
        result = EmbedResult(model, prepared.keys, rows, request.dimensions, hits, label, request.outputs)
        if request.outputs == DENSE:
            _check_dimensions(model, request.dimensions, len(rows[0].vector) if rows else None)
            if hits < len(rows):
                await self._observe(model, input_type, prepared.keys, rows)
        self._count(model.key, len(whole.names), request.outputs)
        chunks = request.long_text == "chunks"
        if windowed is None and not chunks:
            return result
        return await self.aside.run(whole.size, pooled, result, whole, windowed, chunks)

    async def _observe(
        self, model: ServedModel, input_type: InputType | None, keys: Sequence[bytes], rows: Sequence[Row | CachedRow]
    ) -> None:
        """Show new rows to the statistics; the event loop runs other tasks between the parts of many."""
        for first in range(0, len(rows), ROWS_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            some = slice(first, first + ROWS_AT_ONCE)
            self.vectors.observe(model, input_type, keys[some], rows[some])

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score the documents of one request, in their order.

        Raises RequestError for a client's mistake, EngineError for a failure of ours.
        """
        return await self._unless_replaced(self._rerank, request)

    async def _rerank(self, request: RerankRequest) -> RerankResult:
        target = await self.registry.resolve(request.model, "rerank", also="embed" if request.plain else None)
        model = target.model
        if model.task == "embed":
            # Of a model with both, bare scores are cosines as of any embedder.
            dense = "dense" in model.outputs and (target.cosine or request.plain)
            by_tokens = "multi" in model.outputs and not dense
            if not request.model and by_tokens:  # it need not be the default one of embedders
                request = msgspec.structs.replace(request, model=model.spec)
            parts = [asyncio.ensure_future(self._embed(part)) for part in embed_requests(request, by_tokens=by_tokens)]
            try:
                queries, documents = await asyncio.gather(*parts)
            finally:
                for part in parts:  # if one fails, nobody waits for the other
                    part.cancel()
            result = result_of_tokens if by_tokens else result_of_vectors
            return await self.aside.run(documents.numbers, result, queries, documents)
        key_maker, label = self._key_maker(model)
        prepared = await self.aside.run(_size(request), prepare_pairs, request, model, self._clean, key_maker, label)
        windowed = await self._windows.cut(prepared) if request.windows else None
        rows, hits, _ = await self._run(windowed.request if windowed else prepared)
        self._count(model.key, len(prepared.names))
        best = await self.aside.run(prepared.size, best_windows, windowed, rows) if windowed else rows
        return result_of_pairs(model, best, hits, len(rows))

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """Find the classes of the texts of one request, in their order.

        Raises RequestError for a client's mistake, EngineError for a failure of ours.
        """
        return await self._unless_replaced(self._classify, request)

    async def _classify(self, request: ClassifyRequest) -> ClassifyResult:
        model = (await classifying.target_of(self.registry, request)).model
        if model.task == "rerank":
            return classifying.result_of_scores(await self._rerank(classifying.rerank_request(request)))
        key_maker, label = self._key_maker(model)
        prepared = await self.aside.run(_size(request), classifying.prepare, request, model, self._clean, key_maker, label)
        rows, hits, _ = await self._run(prepared)
        self._count(model.key, len(rows))
        return classifying.result_of(model, rows, hits)

    async def count_tokens(self, request: TokenizeRequest) -> TokenizeResult:
        """Tokenise the texts of one request as an embedder would read them; see `tokenize`."""
        return await self._unless_replaced(
            lambda request: tokenize(self.registry, self.pool, self._clean, self.aside, request, self._timeout), request
        )

    async def detokenize(self, request: DetokenizeRequest) -> list[str]:
        """Return the texts that token ids stand for."""
        return await self._unless_replaced(
            lambda request: detokenize(self.registry, self.pool, request, self._timeout), request
        )

    async def check(self) -> None:
        """Raise EngineError with the reason when the default model cannot compute now; see `HealthCheck`."""
        await self._health.check()

    def waiting_tokens(self, model: ServedModel) -> float:
        """Estimate the tokens of a model's unfinished requests."""
        return self._pipeline.waiting_tokens(model)

    async def _unless_replaced(self, answer: Callable[[RequestT], Awaitable[ResultT]], request: RequestT) -> ResultT:
        """Answer a request; again, where it failed because its model's file was replaced since its name was resolved."""
        version = self.registry.version
        try:
            return await answer(request)
        except EngineUnavailableError:
            if self.registry.version == version:
                raise
        return await answer(request)

    # --- responses of repeated requests -------------------------------------------------------------------------------

    @traced(within="fast path")
    def find_response(self, digest: bytes) -> StoredResponse | None:
        """Return the stored response to a request body with this digest, if it would be written the same way again.

        It counts as a request, and as a hit of its rows.
        """
        if self.cache is None:
            return None
        found = self.cache.responses.get(digest)
        if found is None or found.version != self.registry.version or self.cache.get_hot(found.keys, found.label) is None:
            return None
        self._count(found.model, len(found.keys), found.outputs)
        return found

    def store_response(self, digest: bytes, body: bytes, result: EmbedResult) -> None:
        """Store the response to a request body, if its rows came from the cache's memory alone."""
        if self.cache is not None and result.memory_label is not None:
            keys, version = tuple(result.keys), self.registry.version
            stored = StoredResponse(body, keys, result.memory_label, result.model.key, version, result.outputs)
            self.cache.responses.put(digest, stored)

    # --- steps of a request -------------------------------------------------------------------------------------------

    @traced(within="clean and key")
    def _prepare_texts(self, request: EmbedRequest, model: ServedModel, input_type: InputType | None) -> RowRequest:
        """Clean the texts, choose the prompt, make the keys. Raises RequestError."""
        times = len(request.texts) + len(request.ids or ())
        if request.prefix is None:
            prompt = choose_prompt(model.prompts, input_type, request.instruction, request.model or model.name)
            refuse_repeated("instruction", request.instruction, times)
        elif input_type is None and request.instruction is None:
            prompt = prefixed(request.prefix)
            refuse_repeated("prompt", request.prefix, times)
        else:
            raise RequestError("prompt takes the place of the model's prompt; leave the others out", param="prompt")
        key_maker, label = self._key_maker(model)
        if request.ids is None:
            names, kind = [self._clean(text) for text in request.texts], ""
            if not request.may_be_empty:
                refuse_empty(names, partial(place_of, request))
            texts = prompt.around(names)
        else:
            names, kind = token_ids.names_of(request.ids, partial(place_of, request)), token_ids.KIND
            texts = token_ids.texts_of(request.ids, prompt)
        most_tokens = self.max_request_tokens
        if request.outputs != DENSE:
            role: Role = "query" if input_type == "query" else "document"
            kind = f"{kind} {'+'.join(request.outputs)} {role}"
            texts = [_with_role(text, role) for text in texts]
            if numbers := model.numbers_per_token(request.outputs):
                most_tokens = min(most_tokens or MOST_NUMBERS, MOST_NUMBERS // numbers)
        interactive = len(names) <= INTERACTIVE_TEXTS and not request.repeatable
        identity = prompt.identity
        return RowRequest(
            client=request,
            model=model,
            key_maker=key_maker,
            label=label,
            identity=identity,
            names=names,
            keys=key_maker.keys(identity, names, kind),
            texts=texts,
            kind=kind,
            interactive=interactive,
            frequent=(interactive and input_type != "document") or request.cache == "keep",
            most_tokens=most_tokens,
            outputs=request.outputs,
            isolated=request.repeatable,
        )

    async def _run(self, prepared: RowRequest) -> PipelineResult:
        try:
            result = await self._pipeline.run(prepared)
        except BadVectorError:
            self.vectors.refused(prepared.model)
            raise
        if result.hits < len(result.rows):
            self._health.note_row(prepared.model)
        return result

    def _count(self, model: tuple[str, str], texts: int, outputs: Sequence[str] = ()) -> None:
        """Count an answered request, by the model's key. outputs: of each text; none of a pair."""
        self.requests[model] += 1
        self.texts[model] += texts
        for output in outputs:
            self.outputs[model, output] += texts

    def _key_maker(self, model: ServedModel) -> tuple[KeyMaker, str]:
        found = self._key_makers.get(model.key)
        if found is None:
            found = KeyMaker(model.digest, model.task, model.mends), model.label
            self._key_makers[model.key] = found
        return found


def _size(request: EmbedRequest | RerankRequest | ClassifyRequest) -> int:
    """Return the size of preparing a request's texts; token ids count with their digits."""
    if isinstance(request, RerankRequest):
        return size_of(request.queries) + size_of(request.documents)
    if isinstance(request, ClassifyRequest) and request.seconds:
        return size_of(request.texts) + size_of([second for second in request.seconds if second])
    return size_of(request.texts) + _ID_CHARACTERS * sum(map(len, request.ids or ()))


def _with_role(text: Text, role: Role) -> Text:
    if isinstance(text, str):
        return Prompted("", text, role=role)
    return dataclasses.replace(text, role=role) if isinstance(text, Prompted) else text


def check_outputs(model: ServedModel, outputs: Sequence[Output], param: str = "model") -> None:
    """Raise WrongTaskError if a model cannot compute an output. param: the field that is at fault."""
    for output in outputs:
        if model.computes(output):
            continue
        if model.upstream is not None:
            raise WrongTaskError(
                f"model {model.name!r} is computed by another server, which returns dense vectors only", param=param
            )
        has = " and ".join(_OUTPUT_NAMES[own] for own in model.outputs)
        asked = " or ".join(_OUTPUT_FIELDS[own] for own in model.outputs if own in _OUTPUT_FIELDS)
        advice = f": POST /v1/embeddings returns them with {asked}" if output == "dense" and asked else ""
        raise WrongTaskError(f"model {model.name!r} has no {_OUTPUT_NAMES[output]}; it has {has}{advice}", param=param)


def _check_dimensions(model: ServedModel, asked: int | None, available: int | None) -> None:
    if asked is not None and available is not None and not 1 <= asked <= available:
        raise RequestError(
            f"dimensions must be between 1 and {available} for model {model.name!r}; got {asked}", param="dimensions"
        )
