"""The way of a prepared request: cache, admission, lease, single flight, engine, cache.

Each step happens once. A request whose rows are all cached ends after the first step, and needs no loaded model. A large
request is computed in parts, one after another (see `parts_of`): the engine's queue holds one of them at a time, so that
other requests take turns with it, however large it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import NamedTuple

from edgeembed.cache import CachedRow, FoundRows, VectorCache, Wanted
from edgeembed.common.spans import stage
from edgeembed.engine.interface import BULK, DENSE, INTERACTIVE, Prompted, Row, Text
from edgeembed.engine.text_sizes import COUNTED_CHARACTERS, characters_to_compute, characters_to_read, tokens_at_most
from edgeembed.errors import EmptyInputError, EngineTimeoutError, RequestTooLargeError
from edgeembed.inference.admission import TOKENS_PER_CHARACTER, Admission
from edgeembed.inference.aside import Aside
from edgeembed.inference.row_request import RowRequest
from edgeembed.inference.single_flight import OnResult, SingleFlight, TextError
from edgeembed.inference.tokenize import UnreadableError, read_tokens, refuse_too_many
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import Lease, ModelPool
from edgeembed.models.served_model import ServedModel

PART_TEXTS = 1024
PART_CHARACTERS = 64 * 1024
"""Of the texts that a large request has in the engine's queue at a time, which is how long others wait for it: about 16,000
tokens, or one or two seconds of two processors with a small model. A longer text is a part of its own."""
_LEAST_PART_CHARACTERS, _MOST_PART_CHARACTERS = 16 * 1024, 1024 * 1024
QUICK_SECONDS, SLOW_SECONDS = 0.25, 1.0
"""The next part is twice as large as one that was computed faster, and half as large as one that took longer."""
_PARTS_IN_QUEUE = 4
"""A queue with a low limit has room for this many parts, so that a large request is not refused whenever another waits."""
MOST_NUMBERS = 2**26
"""In all vectors of an answer, which take 256 MiB: 65,536 texts with 1024 dimensions."""
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
        self._most_part_characters = _MOST_PART_CHARACTERS
        if max_queue_tokens:
            fits = int(max_queue_tokens / _PARTS_IN_QUEUE / TOKENS_PER_CHARACTER)
            self._most_part_characters = min(_MOST_PART_CHARACTERS, max(_LEAST_PART_CHARACTERS, fits))
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
            _refuse_numbers(request, self._row_dimensions.get(request.model.key) or request.model.row_dimensions)
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
        parts = parts_of(missing, lambda: size) if len(missing) > 1 else iter([_whole(missing)])
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
                            _refuse_numbers(request, (lease.engine.info.dimensions,))
                            await self._check(request, missing, len(part.texts) < len(missing), cached_tokens, lease)
                        began = time.monotonic()
                        with stage("compute", model=request.model.spec, texts=len(part.texts)):
                            computed = await self._in_flight(request, part.texts, context, cut_keys, lease)
                    admission.learn(part.characters, sum(row.full or row.tokens for row in computed.values()), began)
                    rows |= computed
                    if request.outputs != DENSE:
                        _refuse_large(request, {**cached, **rows})
                    size = self._next_size(size, time.monotonic() - began)
                    part, deadline = next(parts, None), self._deadline()
            finally:
                if lease is not None:
                    lease.release()
        return rows

    def _next_size(self, size: int, seconds: float) -> int:
        """Return the size of the next part in characters. seconds: that one of `size` took, behind other requests' texts."""
        size = size * 2 if seconds < QUICK_SECONDS else size // 2 if seconds > SLOW_SECONDS else size
        return min(self._most_part_characters, max(_LEAST_PART_CHARACTERS, size))

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
            raise request.failure(whole[failure.key], failure.error, _attainable(lease)) from failure.error
        return {whole[key]: row for key, row in rows.items()}

    async def _check(
        self, request: RowRequest, missing: Mapping[bytes, Text], in_parts: bool, cached_tokens: int, lease: Lease
    ) -> None:
        """Refuse a large request before anything of it is computed: for too many tokens, or for a text that is too long.

        The tokenizer reads it for that, which takes a small part of the time that the model takes. A request that is not
        computed in parts is left to the engine, which refuses it in one step.
        """
        counts = request.most_tokens is not None and await self._aside.run(
            request.size, _may_have_more, missing, Counter(request.keys), request.most_tokens - cached_tokens
        )
        if not counts and (not in_parts or request.model.upstream):
            return
        most = request.lengths.most(self._context_tokens[request.model.key])
        times, total = Counter(request.keys), cached_tokens
        limited = Lengths(max_tokens=most)  # nobody asks how many more tokens a giant text has
        for part in parts_of(missing):
            texts = part.texts if counts else await self._aside.run(part.characters, _doubtful, request, part.texts, most)
            keys = list(texts)
            try:
                tokenized = await read_tokens(lease.engine, [limited.around(text) for text in texts.values()])
            except UnreadableError as failure:
                raise request.failure(keys[failure.index], failure.error, _attainable(lease)) from failure.error
            for key, text in zip(keys, tokenized, strict=True):
                tokens = len(text.ids)
                if not tokens:
                    raise request.failure(key, EmptyInputError("the text has no tokens"))
                if request.lengths.cut == "none" and tokens > most:
                    at_least = characters_to_read(texts[key]) > COUNTED_CHARACTERS
                    raise request.too_long(key, tokens, most, at_least=at_least, attainable=_attainable(lease))
                total += min(tokens, most) * times[key]
            if counts:
                refuse_too_many(total, request.most_tokens, request.client.param)


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


class Part(NamedTuple):
    """Texts that are in the engine's queue at the same time, by their keys, and their size in characters."""

    texts: dict[bytes, Text]
    characters: int


def parts_of(texts: Mapping[bytes, Text], most: Callable[[], int] = lambda: PART_CHARACTERS) -> Iterator[Part]:
    """Yield texts in parts that the engine computes one after another; nearly always it is one.

    most: returns the characters of the next part, which it should not exceed.
    """
    part: dict[bytes, Text] = {}
    characters, limit = 0, most()
    for key, text in texts.items():
        size = characters_to_compute(text)
        if part and (characters + size > limit or len(part) >= PART_TEXTS):
            yield Part(part, characters)
            part, characters, limit = {}, 0, most()
        part[key] = text
        characters += size
    yield Part(part, characters)


def _whole(texts: Mapping[bytes, Text]) -> Part:
    return Part(dict(texts), sum(map(characters_to_compute, texts.values())))


def _refuse_numbers(request: RowRequest, dimensions: tuple[int, ...]) -> None:
    """Raise RequestTooLargeError when the vectors of an answer would take too much memory. dimensions: that one may have."""
    most = MOST_NUMBERS // max(dimensions, default=1)
    if len(request.keys) > most:
        raise RequestTooLargeError(
            f"{request.client.param} has {len(request.keys):,} items; with the {max(dimensions):,} dimensions of model "
            f"{request.model.name!r}, one answer holds at most {most:,} vectors. Send fewer texts at a time",
            param=request.client.param,
        )


def _refuse_large(request: RowRequest, rows: Mapping[bytes, Row | CachedRow]) -> None:
    """Raise RequestTooLargeError when packed rows, whose length is known once they are there, take too much memory."""
    if sum([len(row.vector) for row in rows.values()]) > MOST_NUMBERS:
        raise RequestTooLargeError(
            f"what the request wants of {request.client.param} has more than {MOST_NUMBERS:,} numbers, which is the most "
            "that one answer holds. Send fewer texts at a time",
            param=request.client.param,
        )


def _attainable(lease: Lease) -> int:
    return lease.engine.info.attainable_tokens if lease.engine.info else 0


def _may_have_more(texts: Mapping[bytes, Text], times: Mapping[bytes, int], most: int) -> bool:
    """Return whether texts may have more than `most` tokens; few have. times: how often a request has each."""
    return sum(tokens_at_most(text) * times[key] for key, text in texts.items()) > most


def _doubtful(request: RowRequest, texts: Mapping[bytes, Text], most: int) -> dict[bytes, Text]:
    """Return the texts that the engine may refuse: token ids, and what may be longer than `most` tokens."""
    long = request.lengths.cut == "none"
    return {
        key: text
        for key, text in texts.items()
        if (long and tokens_at_most(text) > most) or (isinstance(text, Prompted) and text.ids is not None)
    }


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
