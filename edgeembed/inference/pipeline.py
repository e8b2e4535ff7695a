"""The way of a prepared request: cache, admission, lease, single flight, engine, cache.

Each step happens once. A request whose rows are all cached ends after the first step, and needs no loaded model.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from edgeembed.cache import CachedRow, FoundRows, VectorCache, Wanted
from edgeembed.engine.interface import BULK, INTERACTIVE, Row, Text
from edgeembed.engine.text_sizes import COUNTED_CHARACTERS, characters_to_compute, characters_to_read, tokens_at_most
from edgeembed.errors import EngineTimeoutError
from edgeembed.inference.admission import Admission
from edgeembed.inference.aside import Aside
from edgeembed.inference.row_request import RowRequest
from edgeembed.inference.single_flight import OnResult, SingleFlight, TextError
from edgeembed.inference.tokenize import UnreadableError, read_tokens, refuse_too_many
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import Lease, ModelPool
from edgeembed.models.registry import ServedModel

MOST_REQUEST_TOKENS = 300_000
"""Tokens of all texts of a request to embed; OpenAI's API takes as many."""


class PipelineResult(NamedTuple):
    """rows: in order. hits: how many the cache had. from_memory: all are frequent, whole rows from its memory."""

    rows: list[Row | CachedRow]
    hits: int
    from_memory: bool


class Pipeline:
    """Answers prepared requests. Everything runs on one event loop."""

    def __init__(
        self,
        pool: ModelPool,
        cache: VectorCache | None,
        aside: Aside,
        *,
        timeout: float = 600.0,
        max_queue_tokens: int = 0,
    ) -> None:
        """Connect pool and cache; timeout (in seconds) and max_queue_tokens as in the service."""
        self._pool = pool
        self._cache = cache
        self._aside = aside
        self._timeout = timeout
        self._max_queue_tokens = max_queue_tokens
        self._admissions: dict[tuple[str, str], Admission] = {}
        self._single_flight = SingleFlight()
        self._context_tokens: dict[tuple[str, str], int] = {}
        """Longest text of each model that was loaded once."""
        self._row_dimensions: dict[tuple[str, str], tuple[int, ...]] = {}
        """Dimensions of the rows of each model that was loaded once."""

    def waiting_tokens(self, model: ServedModel) -> float:
        """Estimate the tokens of a model's unfinished requests."""
        admission = self._admissions.get(model.key)
        return admission.waiting_tokens if admission else 0.0

    async def run(self, request: RowRequest) -> PipelineResult:
        """Return the rows of a request.

        Raises RequestError for a text that cannot be read, TooManyTokensError, EngineError; all in the client's words.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        rows, from_disk = await self._look_up(request, deadline)
        hits = sum([key in rows for key in request.keys])
        cached_tokens = sum([rows[key].tokens for key in request.keys if key in rows])
        refuse_too_many(cached_tokens, request.most_tokens, request.client.param)
        if hits < len(request.keys):
            async with self._until(deadline):
                rows |= await self._compute(request, rows, cached_tokens)
        result = [rows[key] for key in request.keys]
        # Rows of cut texts are Rows, as those that were just computed.
        from_memory = request.is_plain_query and not from_disk and all(isinstance(row, CachedRow) for row in result)
        return PipelineResult(result, hits, from_memory)

    @contextlib.asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        """Raise EngineTimeoutError when what happens inside is not done by `deadline`, in the event loop's seconds."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise EngineTimeoutError(
                f"no answer within {self._timeout:g} s; send fewer texts at a time or raise request_timeout", retry_after=1.0
            ) from None

    # --- the cache ----------------------------------------------------------------------------------------------------

    async def _look_up(self, request: RowRequest, deadline: float) -> tuple[dict[bytes, Row | CachedRow], int]:
        """Return the cached rows of the request's texts by their keys, and how many only the disk had.

        Rows of cut texts are found as soon as the model's context is known, which is when it was loaded once.
        """
        cache, lengths = self._cache, request.lengths
        if cache is None or request.cache_use == "off":
            return {}, 0
        context = self._context_tokens.get(request.model.key)
        cut_keys = await self._cut_keys(request, context) if lengths.cut != "none" and context is not None else {}
        asked = dict.fromkeys((*request.keys, *cut_keys.values()) if cut_keys else request.keys)
        found = cache.get_from_memory(asked, request.label, low=not request.frequent)
        if found.missing:  # most requests end in memory, and entering a timeout takes as long as the lookup there
            async with self._until(deadline):
                row_dimensions = self._row_dimensions.get(request.model.key) or request.model.row_dimensions
                await cache.add_from_disk(found, request.label, low=not request.frequent, dimensions=row_dimensions)
        if request.client.cache == "keep":
            cache.keep(found)
        if lengths.plain:
            return {**found}, found.from_disk
        cut = {key: _row_of_part(found[part], lengths, context or 0) for key, part in cut_keys.items() if part in found}
        return cut | _rows_within(request, found), found.from_disk

    def _storing(self, request: RowRequest, keys: Mapping[bytes, bytes], context: int, lease: Lease) -> OnResult:
        """Return a function that stores each computed row as it arrives.

        keys: of whole texts, by the keys that are computed. context: the model's longest text, which the keys of parts name.
        """
        cache, began, dimensions = self._cache, time.monotonic(), self._row_dimensions[request.model.key]
        wanted: Wanted = "keep" if request.cache_use == "keep" else "normal" if request.frequent else "low"

        def store(key: bytes, row: Row) -> None:
            if cache is None or request.cache_use not in ("on", "keep"):
                return
            if not row.full:
                key = keys[key]
            elif lease.engine.info is None or lease.engine.info.context_tokens != context:
                return  # its worker came back with a shorter context, for want of memory: the part is not what the key says
            elif not request.lengths.own:
                row = Row(row.vector, row.full)  # the key says how many of its tokens were read
            # The texts of a request share its time: a hit saves its share of the wait.
            seconds = (time.monotonic() - began) / len(keys)
            cache.put(key, row, request.label, seconds=seconds, wanted=wanted, dimensions=dimensions)

        return store

    # --- the engine ---------------------------------------------------------------------------------------------------

    async def _compute(
        self, request: RowRequest, cached: Mapping[bytes, Row | CachedRow], cached_tokens: int
    ) -> dict[bytes, Row]:
        """Compute the rows that the cache does not have, or refuse all of them when too much is waiting."""
        missing = {key: text for key, text in zip(request.keys, request.texts, strict=True) if key not in cached}
        admission = self._admissions.get(request.model.key)
        if admission is None:
            admission = self._admissions[request.model.key] = Admission(self._max_queue_tokens)
        characters = sum(map(characters_to_compute, missing.values()))
        with admission.admit(characters, interactive=request.interactive):
            async with self._pool.lease(request.model) as lease:
                assert lease.engine.info is not None  # it was ready once
                context = self._context_tokens[request.model.key] = lease.engine.info.context_tokens
                self._row_dimensions[request.model.key] = (lease.engine.info.dimensions,)
                await self._check_total(request, missing, characters, cached_tokens, lease)
                began = time.monotonic()
                rows = await self._in_flight(request, missing, context, lease)
        admission.learn(characters, sum(row.full or row.tokens for row in rows.values()), began)
        return rows

    async def _cut_keys(self, request: RowRequest, context: int) -> dict[bytes, bytes]:
        if request.lengths.plain:
            return {}
        return await self._aside.run(request.characters, request.cut_keys, context)

    async def _in_flight(
        self, request: RowRequest, missing: Mapping[bytes, Text], context: int, lease: Lease
    ) -> dict[bytes, Row]:
        """Compute texts that are missing in the cache, together with other requests for the same ones."""
        cut_keys = await self._cut_keys(request, context)
        whole = {cut_keys.get(key, key): key for key in missing}
        texts = {
            computed: request.lengths.around(missing[key]) if computed != key else missing[key]
            for computed, key in whole.items()
        }
        priority = INTERACTIVE if request.interactive else BULK
        store = self._storing(request, whole, context, lease)
        try:
            rows = await self._single_flight.compute(lease, texts, priority, store, isolated=request.isolated)
        except TextError as failure:
            raise request.failure(whole[failure.key], failure.error) from failure.error
        return {whole[key]: row for key, row in rows.items()}

    async def _check_total(
        self, request: RowRequest, missing: Mapping[bytes, Text], characters: int, cached_tokens: int, lease: Lease
    ) -> None:
        """Refuse a request with too many tokens before anything of it is computed. characters: of the missing texts.

        Only large requests are counted, by the tokenizer, which takes a small part of the time that the model takes.
        """
        if request.most_tokens is None:
            return
        times = Counter(request.keys)
        total = cached_tokens
        at_most = await self._aside.run(
            characters,
            lambda: sum(tokens_at_most(text) * times[key] for key, text in missing.items()),
        )
        if total + at_most <= request.most_tokens:
            return
        most = request.lengths.most(self._context_tokens[request.model.key])
        keys = list(missing)
        try:
            limited = Lengths(max_tokens=most)  # nobody asks how many more tokens a giant text has
            tokenized = await read_tokens(lease.engine, [limited.around(text) for text in missing.values()])
        except UnreadableError as failure:
            raise request.failure(keys[failure.index], failure.error) from failure.error
        for key, text in zip(keys, tokenized, strict=True):
            tokens = len(text.ids)
            if request.lengths.cut == "none" and tokens > most:
                at_least = characters_to_read(missing[key]) > COUNTED_CHARACTERS
                raise request.too_long(key, tokens, most, at_least=at_least)
            total += min(tokens, most) * times[key]
        refuse_too_many(total, request.most_tokens, request.client.param)


def _rows_within(request: RowRequest, found: FoundRows) -> dict[bytes, Row | CachedRow]:
    """Return the rows of whole texts that are not longer than the client allows. Raises InputTooLongError."""
    lengths, rows = request.lengths, dict[bytes, Row | CachedRow]()
    for key in request.keys:
        row = found.get(key)
        if row is not None and (lengths.max_tokens is None or row.tokens <= lengths.max_tokens):
            rows[key] = row
        elif row is not None and lengths.max_tokens is not None and lengths.cut == "none" and not lengths.own:
            raise request.too_long(key, row.tokens, lengths.max_tokens)
    return rows


def _row_of_part(row: CachedRow, lengths: Lengths, context_tokens: int) -> Row:
    """Return the row of a cut text out of the cache, which holds its tokens as `Pipeline._storing` wrote them."""
    if lengths.own:
        return Row(row.vector, row.tokens, row.tokens)
    return Row(row.vector, lengths.most(context_tokens), row.tokens)
