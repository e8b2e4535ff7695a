"""Where the rows of a request come from: the cache, another request that computes the same text, or the engine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeembed.cache import CachedRow, KeyMaker, VectorCache, Wanted
from edgeembed.engine.interface import BULK, INTERACTIVE, Row, Text
from edgeembed.engine.text_sizes import characters_of, tokens_at_most
from edgeembed.errors import EngineTimeoutError, InputTooLongError
from edgeembed.inference.admission import Admission
from edgeembed.inference.single_flight import Flights, Landed, TextError
from edgeembed.inference.tokenize import UnreadableError, read, refuse_too_many
from edgeembed.inference.truncation import ANY_LENGTH, Lengths
from edgeembed.models.pool import Lease, ModelPool
from edgeembed.models.registry import ServedModel

CacheUse = Literal["on", "off", "no-store", "keep"]
"""What a request does with the cache. off: neither looks nor keeps. no-store: takes what is there and keeps nothing new.
keep: what it asks for will be asked for again, and is let in before anything else."""

MOST_REQUEST_TOKENS = 300_000
"""Tokens of all texts of a request that embeds; what OpenAI's API takes."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The texts of a request as cache and engine know them.

    identity: of the prompt or query around them. In the same order: names, which tell each text from others under this
    identity; keys, under which the rows of whole texts are cached; texts, which the engine computes. kind: what the names
    are, empty for text. frequent: that these are asked for says that they may be asked for again. param: the request's field
    that holds them. most_tokens: of all together. isolated: see `Engine.submit`.
    """

    model: ServedModel
    maker: KeyMaker
    label: str
    identity: str
    names: Sequence[str]
    keys: Sequence[bytes]
    texts: Sequence[Text]
    param: str
    kind: str = ""
    lengths: Lengths = ANY_LENGTH
    use: CacheUse = "on"
    interactive: bool = True
    frequent: bool = True
    most_tokens: int | None = None
    isolated: bool = False

    def keys_within(self, context_tokens: int) -> dict[bytes, bytes]:
        """Give, for the key of each text, the one under which its row within its limits is cached.

        They differ for a text that may be longer: a row that was computed from a part is another text's row, so to speak.
        """
        if self.lengths.plain:
            return {key: key for key in self.keys}
        rule, most = f"{self.kind} {self.lengths.rule(context_tokens)}", self.lengths.most(context_tokens)
        return {
            key: key if tokens_at_most(text) <= most else self.maker.key(self.identity, name, rule)
            for key, name, text in zip(self.keys, self.names, self.texts, strict=True)
        }


class RowSource:
    """Gives rows. Everything runs on one event loop."""

    def __init__(
        self, pool: ModelPool, cache: VectorCache | None, *, timeout: float = 600.0, max_queue_tokens: int = 0
    ) -> None:
        """Tie the parts together; timeout (in seconds) and max_queue_tokens as in the service."""
        self._pool = pool
        self._cache = cache
        self._timeout = timeout
        self._max_queue_tokens = max_queue_tokens
        self._doors: dict[tuple[str, str], Admission] = {}
        self._flights = Flights()
        self._contexts: dict[tuple[str, str], int] = {}
        """Longest text of each model that was loaded once."""

    def waiting_tokens(self, model: ServedModel) -> float:
        """Estimate the tokens of a model's requests that are not finished."""
        door = self._doors.get(model.key)
        return door.waiting_tokens if door else 0.0

    async def rows(self, wish: Wish) -> tuple[list[Row | CachedRow], int]:
        """Give the row of each text, in order, and how many of them the cache had.

        Raises TextError naming the key of a text that has no row, EngineError, TooManyTokensError.
        """
        try:
            async with asyncio.timeout(self._timeout):
                rows = await self._cached(wish)
                hits = sum(key in rows for key in wish.keys)
                refuse_too_many(sum(rows[key].tokens for key in wish.keys if key in rows), wish.most_tokens, wish.param)
                missing = {key: text for key, text in zip(wish.keys, wish.texts, strict=True) if key not in rows}
                if missing:
                    rows |= await self._computed(wish, missing, rows)
        except TimeoutError:
            raise EngineTimeoutError(
                f"no answer within {self._timeout:g} s; send fewer texts at a time or raise request_timeout", retry_after=1.0
            ) from None
        return [rows[key] for key in wish.keys], hits

    # --- the cache ----------------------------------------------------------------------------------------------------

    async def _cached(self, wish: Wish) -> dict[bytes, Row | CachedRow]:
        """Give what the cache has; an unloaded model stays so as long as that is everything."""
        cache, lengths = self._cache, wish.lengths
        if cache is None or wish.use == "off":
            return {}
        found = await cache.get_many(dict.fromkeys(wish.keys), wish.label, low=not wish.frequent)
        rows: dict[bytes, Row | CachedRow] = {}
        for key, row in found.items():
            if lengths.max_tokens is None or row.tokens <= lengths.max_tokens:
                rows[key] = row
            elif lengths.cut == "none" and not lengths.own:
                raise TextError(key, InputTooLongError("", tokens=row.tokens, limit=lengths.max_tokens))
        if wish.use == "keep":
            cache.keep(rows)
        if lengths.cut == "none" or all(key in rows for key in wish.keys):
            return rows
        context = await self._context_tokens(wish.model)
        parts = {part: key for key, part in wish.keys_within(context).items() if key != part and key not in rows}
        kept = await cache.get_many(parts, wish.label, low=not wish.frequent) if parts else {}
        if wish.use == "keep":
            cache.keep(kept)
        return rows | {parts[part]: _row_of_part(row, lengths, context) for part, row in kept.items()}

    async def _context_tokens(self, model: ServedModel) -> int:
        """Give the longest text that a model takes; it is loaded where nobody knows."""
        if model.key not in self._contexts:
            async with self._pool.lease(model) as lease:
                self._note_context(model, lease)
        return self._contexts[model.key]

    def _note_context(self, model: ServedModel, lease: Lease) -> int:
        info = lease.engine.info
        assert info is not None  # it was ready once
        self._contexts[model.key] = info.context_tokens
        return info.context_tokens

    # --- the engine ---------------------------------------------------------------------------------------------------

    async def _computed(
        self, wish: Wish, missing: Mapping[bytes, Text], had: Mapping[bytes, Row | CachedRow]
    ) -> dict[bytes, Row]:
        """Compute rows, or refuse all of them when too much waits already."""
        door = self._doors.get(wish.model.key)
        if door is None:
            door = self._doors[wish.model.key] = Admission(self._max_queue_tokens)
        characters = sum(map(characters_of, missing.values()))
        with door.admit(characters, interactive=wish.interactive):
            async with self._pool.lease(wish.model) as lease:
                context = self._note_context(wish.model, lease)
                await self._check_together(wish, missing, had, lease)
                began = time.monotonic()
                within = wish.keys_within(context)
                whole = {within[key]: key for key in missing}
                texts = {
                    within[key]: text if within[key] == key else wish.lengths.around(text) for key, text in missing.items()
                }
                try:
                    rows = await self._flights.compute(
                        lease,
                        texts,
                        INTERACTIVE if wish.interactive else BULK,
                        self._keeper(wish, whole),
                        isolated=wish.isolated,
                    )
                except TextError as failure:
                    raise TextError(whole[failure.key], failure.error) from failure
        door.learn(characters, sum(row.full or row.tokens for row in rows.values()), began)
        return {whole[key]: row for key, row in rows.items()}

    def _keeper(self, wish: Wish, whole: Mapping[bytes, bytes]) -> Landed:
        """Give what is done with each row that a request computes, as they come."""
        cache, began = self._cache, time.monotonic()
        wanted: Wanted = "keep" if wish.use == "keep" else "normal" if wish.frequent else "low"

        def keep(key: bytes, row: Row) -> None:
            if cache is None or wish.use not in ("on", "keep"):
                return
            if not row.full:
                key = whole[key]
            elif not wish.lengths.own:
                row = Row(row.vector, row.full)  # how many are left of them, the key says
            # Texts of one request share its time: what a hit saves is a share of the wait for all of them.
            cache.put(key, row, wish.label, seconds=(time.monotonic() - began) / len(whole), wanted=wanted)

        return keep

    async def _check_together(
        self, wish: Wish, missing: Mapping[bytes, Text], had: Mapping[bytes, Row | CachedRow], lease: Lease
    ) -> None:
        """Refuse a request with too many tokens before anything of it is computed.

        Only a large request has to be counted, which takes the tokenizer a small part of what the model takes.
        """
        if wish.most_tokens is None:
            return
        times = Counter(wish.keys)
        known = sum(row.tokens * times[key] for key, row in had.items())
        if known + sum(tokens_at_most(text) * times[key] for key, text in missing.items()) <= wish.most_tokens:
            return
        keys, most = list(missing), wish.lengths.most(self._contexts[wish.model.key])
        try:
            read_texts = await read(lease.engine, list(missing.values()))
        except UnreadableError as failure:
            raise TextError(keys[failure.index], failure.error) from failure
        for key, text in zip(keys, read_texts, strict=True):
            tokens = len(text.ids)
            if wish.lengths.cut == "none" and tokens > most:
                raise TextError(key, InputTooLongError("", tokens=tokens, limit=most))
            known += min(tokens, most) * times[key]
        refuse_too_many(known, wish.most_tokens, wish.param)


def _row_of_part(row: CachedRow, lengths: Lengths, context_tokens: int) -> Row:
    """Give a cached row of a text that was cut, which was written with the tokens that `_keeper` says."""
    if lengths.own:
        return Row(row.vector, row.tokens, row.tokens)
    return Row(row.vector, lengths.most(context_tokens), row.tokens)
