"""The way of a prepared request: cache, admission, lease, single flight, engine, cache.

Each step happens once. A request whose rows are all cached ends after the first step, and needs no loaded model. A large
request is computed in parts, one after another (see `parts`): the engine's queue holds one of them at a time, so that
other requests take turns with it, however large it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import NamedTuple

from edgeembed.cache import CachedRow, FoundRows, VectorCache, Wanted
from edgeembed.common.spans import stage
from edgeembed.engine.interface import BULK, DENSE, INTERACTIVE, Row, Text
from edgeembed.errors import EngineTimeoutError
from edgeembed.inference.admission import Admission
from edgeembed.inference.aside import Aside
from edgeembed.inference.limits import attainable, check_large, refuse_packed_rows, refuse_vectors
from edgeembed.inference.parts import PART_CHARACTERS, PART_TEXTS, Part, most_characters, next_size, one_part, parts_of
from edgeembed.inference.row_request import RowRequest
from edgeembed.inference.single_flight import OnResult, SingleFlight, TextError
from edgeembed.inference.tokenize import refuse_too_many
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import Lease, ModelPool
from edgeembed.models.served_model import ServedModel

LOOKUP_KEYS = 4096
"""Keys that are looked up in memory before other requests get their turn on the event loop."""


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
        self._most_part_characters = most_characters(max_queue_tokens)
        self._admissions: dict[tuple[str, str], Admission] = {}
        self._single_flight = SingleFlight()
        self._context_tokens: dict[tuple[str, str], int] = {}
        """Longest text of each model that was loaded once."""
        self._row_dimensions: dict[tuple[str, str], tuple[int, ...]] = {}
        """Dimensions of the rows of each model that was loaded once."""

    def context_of(self, model: ServedModel) -> int | None:
        """Return the tokens of a model's longest text; None if it was never loaded."""
        slot = self._pool.slot_of(model)
        info = slot.engine.info if slot and slot.engine else None
        return info.context_tokens if info else self._context_tokens.get(model.key)

    def waiting_tokens(self, model: ServedModel) -> float:
        """Estimate the tokens of a model's unfinished requests."""
        admission = self._admissions.get(model.key)
        return admission.waiting_tokens if admission else 0.0

    async def run(self, request: RowRequest) -> PipelineResult:
        """Return the rows of a request.

        Raises RequestError for a text that cannot be read, TooManyTokensError, EngineError; all in the client's words.
        """
        deadline = self._deadline()
        if len(request.keys) > PART_TEXTS:  # fewer have no such dimensions
            refuse_vectors(request, self._row_dimensions.get(request.model.key) or request.model.row_dimensions)
        rows, from_lower = await self._look_up(request, deadline)
        hits = sum([key in rows for key in request.keys])
        cached_tokens = sum([rows[key].tokens for key in request.keys if key in rows])
        refuse_too_many(cached_tokens, request.most_tokens, request.client.param)
        if hits < len(request.keys):
            rows |= await self._compute(request, rows, cached_tokens, deadline)
        result = [rows[key] for key in request.keys]
        # Rows of cut texts are Rows, as those that were just computed.
        from_memory = request.is_plain_query and not from_lower and all(isinstance(row, CachedRow) for row in result)
        return PipelineResult(result, hits, from_memory)

    def _dimensions_of(self, request: RowRequest) -> tuple[int, ...]:
        """Return how many numbers a row may have, as far as that is known; empty for packed rows, which have any number."""
        if request.outputs != DENSE:
            return ()
        return self._row_dimensions.get(request.model.key) or request.model.row_dimensions

    def _deadline(self) -> float:
        """Return when what begins now is to be done: a request, or each part of a large one."""
        return asyncio.get_running_loop().time() + self._timeout

    def _until(self, deadline: float) -> _Until:
        """Raise EngineTimeoutError when what happens inside is not done by `deadline`, in the event loop's seconds."""
        return _Until(deadline, self._timeout)

    # --- the cache ----------------------------------------------------------------------------------------------------

    async def _look_up(self, request: RowRequest, deadline: float) -> tuple[dict[bytes, Row | CachedRow], int]:
        """Return the cached rows of the request's texts by their keys, and how many memory did not have.

        Rows of cut texts are found as soon as the model's context is known, which is when it was loaded once.
        """
        cache, lengths = self._cache, request.lengths
        if cache is None or request.cache_use == "off":
            return {}, 0
        context = self._context_tokens.get(request.model.key)
        cut_keys: dict[bytes, bytes] = {}
        if lengths.cut != "none" and context is not None:
            # A text whose whole row is in memory is not too long, unless the request allows less than the model.
            among = set(request.keys) if lengths.max_tokens is not None else cache.not_in_memory(request.keys)
            cut_keys = await self._cut_keys(request, context, among) if among else {}
        asked = dict.fromkeys((*request.keys, *cut_keys.values()) if cut_keys else request.keys)
        found = await self._find(cache, request, asked, deadline)
        if request.client.cache == "keep":
            cache.keep(found)
        if lengths.plain:
            return {**found}, found.from_lower
        cut = {key: _row_of_part(found[part], lengths, context or 0) for key, part in cut_keys.items() if part in found}
        return cut | _rows_within(request, found), found.from_lower

    async def _find(
        self, cache: VectorCache, request: RowRequest, asked: Mapping[bytes, None], deadline: float
    ) -> FoundRows:
        """Return the rows that the cache has; the event loop runs other tasks between the lookups of many keys."""
        low, every = not request.frequent, FoundRows()
        for keys in [asked] if len(asked) <= LOOKUP_KEYS else _slices(asked, LOOKUP_KEYS):
            found = cache.get_from_memory(keys, request.label, low=low)
            if not cache.may_be_lower(found):  # as nearly always, and entering a timeout takes as long as the lookup
                cache.count_missing(found, request.label)
            else:
                async with self._until(deadline):
                    row_dimensions, store = self._dimensions_of(request), request.cache_use != "no-store"
                    await cache.add_from_lower(found, request.label, low=low, dimensions=row_dimensions, store=store)
            if keys is asked:
                return found
            every.update(found)
            every.from_lower += found.from_lower
            await asyncio.sleep(0)
        return every

    def _storing(self, request: RowRequest, keys: Mapping[bytes, bytes], context: int, lease: Lease) -> OnResult:
        """Return a function that stores each computed row as it arrives.

        keys: of whole texts, by the keys that are computed. context: the model's longest text, which the keys of parts name.
        """
        cache, began, dimensions = self._cache, time.monotonic(), self._dimensions_of(request)
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
        self, request: RowRequest, cached: Mapping[bytes, Row | CachedRow], cached_tokens: int, deadline: float
    ) -> dict[bytes, Row]:
        """Compute the rows that the cache does not have, or refuse all of them when too much is waiting."""
        missing = {key: text for key, text in zip(request.keys, request.texts, strict=True) if key not in cached}
        admission = self._admissions.get(request.model.key)
        if admission is None:
            admission = self._admissions[request.model.key] = Admission(self._max_queue_tokens)
        size = min(PART_CHARACTERS, self._most_part_characters)
        parts = parts_of(missing, lambda: size) if len(missing) > 1 else iter([one_part(missing)])
        part: Part | None = next(parts)
        assert part is not None  # something is missing
        rows: dict[bytes, Row] = {}
        context, cut_keys = 0, dict[bytes, bytes]()
        # No more than a part waits for the model, until the last one is done.
        with admission.admit(part.characters, interactive=request.interactive):
            lease: Lease | None = None
            try:
                while part is not None:
                    async with self._until(deadline):
                        if lease is None or lease.is_recalled:
                            lease, recalled = None, lease
                            if recalled is not None:
                                recalled.release()
                            with stage("wait for the model"):
                                lease = await self._pool.take(request.model)
                        assert lease.engine.info is not None  # it was ready once
                        if context != lease.engine.info.context_tokens:
                            context = self._context_tokens[request.model.key] = lease.engine.info.context_tokens
                            cut_keys = await self._cut_keys(request, context, missing)
                        if not rows:
                            self._row_dimensions[request.model.key] = (lease.engine.info.dimensions,)
                            refuse_vectors(request, (lease.engine.info.dimensions,))
                            await check_large(
                                request, missing, lease, self._aside, in_parts=len(part.texts) < len(missing),
                                cached_tokens=cached_tokens, context=context,
                            )  # fmt: skip
                        began = time.monotonic()
                        with stage("compute", model=request.model.spec, texts=len(part.texts)):
                            computed = await self._in_flight(request, part.texts, context, cut_keys, lease)
                    admission.learn(part.characters, sum(row.full or row.tokens for row in computed.values()), began)
                    rows |= computed
                    if request.outputs != DENSE:
                        refuse_packed_rows(request, {**cached, **rows})
                    if not request.isolated:  # a cut that followed the time would change what shares a batch
                        size = next_size(size, time.monotonic() - began, self._most_part_characters)
                    part, deadline = next(parts, None), self._deadline()
            finally:
                if lease is not None:
                    lease.release()
        return rows

    async def _cut_keys(self, request: RowRequest, context: int, among: Collection[bytes]) -> dict[bytes, bytes]:
        if request.lengths.plain:
            return {}
        return await self._aside.run(request.size, request.cut_keys, context, among)

    async def _in_flight(
        self, request: RowRequest, missing: Mapping[bytes, Text], context: int, cut_keys: Mapping[bytes, bytes], lease: Lease
    ) -> dict[bytes, Row]:
        """Compute texts that are missing in the cache, together with other requests for the same ones.

        context, cut_keys: the model's longest text, and the keys of what is left of texts that are longer.
        """
        whole = {cut_keys.get(key, key): key for key in missing}
        texts = {
            computed: request.lengths.around(missing[key]) if computed != key else missing[key]
            for computed, key in whole.items()
        }
        priority = INTERACTIVE if request.interactive else BULK
        store = self._storing(request, whole, context, lease)
        try:
            rows = await self._single_flight.compute(
                lease, texts, priority, store, isolated=request.isolated, outputs=request.outputs
            )
        except TextError as failure:
            raise request.failure(whole[failure.key], failure.error, attainable(lease)) from failure.error
        return {whole[key]: row for key, row in rows.items()}


class _Until:
    """What `Pipeline._until` returns. A class: as a generator it would take three times as long for each request."""

    __slots__ = ("_seconds", "_timeout")

    def __init__(self, deadline: float, seconds: float) -> None:
        self._timeout = asyncio.timeout_at(deadline)
        self._seconds = seconds

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise EngineTimeoutError(
                f"no answer within {self._seconds:g} s; send fewer texts at a time or raise request_timeout", retry_after=1.0
            ) from None


def _slices(keys: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    left = iter(keys)
    while part := list(islice(left, most)):
        yield part


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
        return Row(row.vector, row.tokens, row.full or row.tokens)  # older rows do not have it
    return Row(row.vector, lengths.most(context_tokens), row.tokens)
