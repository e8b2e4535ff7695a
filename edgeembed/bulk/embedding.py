"""Embeds the texts of one shard: requests of a good size, retries of temporary errors, and rows that are refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edgeembed.bulk.computed import Computed, has_token_rows, joined, nothing
from edgeembed.bulk.embedders import Embedder
from edgeembed.bulk.records import Id
from edgeembed.bulk.shards import JobRow, Refused, Shard
from edgeembed.common.retry import with_retries
from edgeembed.errors import EdgeEmbedError, RequestTooLargeError

TEXTS_PER_REQUEST = 256
CHARACTERS_PER_REQUEST = 2**16
TOKEN_ROW_CHARACTERS_PER_REQUEST = 2**14
"""Limit for a request where each token has a row: of 1,024 numbers, they take about 16 MiB."""
FEW_TEXTS = 4
"""A request of so few texts would count as interactive (`edgeembed.inference.service.INTERACTIVE_TEXTS`)."""

_PLACE = re.compile(r"input\[(\d+)\]")


class EmbeddedShard(NamedTuple):
    """The rows of a shard whose texts were embedded, what was computed of these, and the rows that were refused."""

    rows: list[JobRow]
    computed: Computed
    refused: list[Refused]


async def embed_shard(
    shard: Shard, embedder: Embedder, limit: asyncio.Semaphore, done: Callable[[int], None] = lambda _texts: None
) -> EmbeddedShard:
    """Embed the texts of a shard.

    limit: of concurrent requests, shared with other shards. done: called with the number of texts after each request. Raises
    EdgeEmbedError for an error that is not about a single text.
    """

    async def one(rows: list[JobRow]) -> EmbeddedShard:
        async with limit:
            found = await _embed(rows, embedder)
        done(len(rows))
        return found

    most = TOKEN_ROW_CHARACTERS_PER_REQUEST if has_token_rows(embedder.info.outputs) else CHARACTERS_PER_REQUEST
    tasks = [asyncio.create_task(one(rows)) for rows in requests(shard.rows, most)]
    try:
        parts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # The engine refuses them in the order in which it finds them, which is another one each time.
    order: dict[tuple[str, str, Id | None], int] = {}
    for number, row in enumerate(shard.rows):
        order[row.input, row.place, row.id] = number
    refused = [each for part in parts for each in part.refused]
    refused.sort(key=lambda each: order[each.input, each.place, each.id])
    return EmbeddedShard(
        [row for part in parts for row in part.rows],
        joined([part.computed for part in parts]) if parts else _nothing(embedder),
        [*shard.refused, *refused],
    )


def requests(rows: Sequence[JobRow], most_characters: int = CHARACTERS_PER_REQUEST) -> list[list[JobRow]]:
    """Divide rows into requests limited by texts and characters, without a last one of only a few texts."""
    found: list[list[JobRow]] = []
    characters = 0
    for row in rows:
        full = found and (
            len(found[-1]) >= TEXTS_PER_REQUEST
            or (characters + len(row.text) > most_characters and len(found[-1]) > FEW_TEXTS)
        )
        if not found or full:
            found.append([])
            characters = 0
        found[-1].append(row)
        characters += len(row.text)
    if len(found) > 1 and len(found[-1]) <= FEW_TEXTS:
        few = found.pop()
        found[-1] += few
    return found


async def _embed(rows: list[JobRow], embedder: Embedder) -> EmbeddedShard:
    """Embed the texts of one request, again without the text at fault when one is refused."""
    refused: list[Refused] = []
    while rows:
        try:
            return EmbeddedShard(rows, await _computed(embedder, rows), refused)
        except RequestTooLargeError as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                one, other = await _embed(rows[:middle], embedder), await _embed(rows[middle:], embedder)
                return EmbeddedShard(
                    one.rows + other.rows,
                    joined([one.computed, other.computed]),
                    refused + one.refused + other.refused,
                )
            index, reason = 0, error.message
        except EdgeEmbedError as error:
            place = _PLACE.fullmatch(error.param or "")
            if place is None or int(place[1]) >= len(rows):
                raise
            index, reason = int(place[1]), error.message
            reason = _PLACE.sub("the text", reason, count=1)
        row = rows[index]
        refused.append(Refused(row.input, row.place, reason, row.id))
        rows = rows[:index] + rows[index + 1 :]
    return EmbeddedShard([], _nothing(embedder), refused)


async def _computed(embedder: Embedder, rows: list[JobRow]) -> Computed:
    return await with_retries(lambda: embedder.embed([row.text for row in rows]))


def _nothing(embedder: Embedder) -> Computed:
    return nothing(embedder.info.outputs, embedder.info.dimensions)
