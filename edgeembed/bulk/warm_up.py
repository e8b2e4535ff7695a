"""Fills the cache from a file of queries, with the running daemon or a model loaded in this process."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeembed.bulk.embedders import EmbedOptions
from edgeembed.bulk.formats import format_of
from edgeembed.bulk.json_rows import JsonRows
from edgeembed.bulk.lines import TextLines
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import Position, Record
from edgeembed.client import Connection, connected
from edgeembed.common.files import describe_os_error
from edgeembed.common.progress import ReportLine
from edgeembed.config.resolution import Resolved
from edgeembed.errors import CacheFileError, ConfigError, EdgeEmbedError
from edgeembed.inference.service import EmbeddingService
from edgeembed.runtime.in_process import in_process_service

TEXTS_PER_REQUEST = 64
_FIELDS = ("text", "query", "input")

EmbedQueries = Callable[[Sequence[str]], Awaitable[None]]
"""Embeds texts and stores their vectors. Raises EdgeEmbedError; its `param` names the text at fault, if there is one."""
OnProgress = Callable[[int, int], None]
"""Called with the queries done and all queries."""


class WarmUpResult(NamedTuple):
    """queries: how many are in the cache now. refused: the reason for each query that the model does not accept."""

    queries: int
    refused: list[str]


def read_queries(path: Path) -> list[str]:
    """Read queries without duplicates: one per line, or in JSON, by the suffix, strings or {"text": …}.

    Raises CacheFileError naming the line that is wrong, or when the file cannot be read.
    """
    place = Place.of_path(path)
    as_json = format_of(place.file_name) in ("json", "jsonl")
    source = JsonRows(place, None, None, fields=_FIELDS) if as_json else TextLines(place)
    queries: dict[str, None] = {}
    try:
        for read in source.read(Position()):
            if isinstance(read, Record):
                queries[read.text] = None
                continue
            hint = '; expected a JSON string, or an object such as {"text": "…"}' if as_json else ""
            raise CacheFileError(f"{path}, {read.place}: {read.reason.partition('.')[0]}{hint}")
    except ConfigError as error:  # it is compressed and damaged, or no text
        raise CacheFileError(error.message) from error
    except OSError as error:
        raise CacheFileError(f"cannot read {describe_os_error(error, path)}") from error
    return [query for query in queries if query]


async def warm_cache(
    queries: Sequence[str], options: EmbedOptions, resolved: Resolved, on_progress: OnProgress, report: ReportLine
) -> WarmUpResult:
    """Embed queries with the running daemon; without one, load the configured model for it.

    options: as clients will send them; a vector is found again only by requests with the same model and prompt. Raises
    EdgeEmbedError.
    """
    async with connected(resolved.settings) as connection:
        if await connection.is_running():
            return await warm(queries, _with_daemon(connection, options), on_progress)
    async with in_process_service(resolved, report, cache=True) as (service, _):
        return await warm(queries, _with_service(service, options), on_progress)


async def warm(queries: Sequence[str], embed: EmbedQueries, on_progress: OnProgress) -> WarmUpResult:
    """Embed queries batch by batch, leaving out those that are refused.

    Raises EdgeEmbedError when an error is not about a single query.
    """
    warmed = 0
    refused: list[str] = []
    for first in range(0, len(queries), TEXTS_PER_REQUEST):
        batch = list(queries[first : first + TEXTS_PER_REQUEST])
        while batch:
            try:
                await embed(batch)
                break
            except EdgeEmbedError as error:
                place = re.fullmatch(r"input\[(\d+)\]", error.param or "")
                if place is None or int(place[1]) >= len(batch):
                    raise
                refused.append(f"{batch.pop(int(place[1]))[:60]!r}: {error.message}")
        warmed += len(batch)
        on_progress(min(len(queries), first + TEXTS_PER_REQUEST), len(queries))
    return WarmUpResult(warmed, refused)


def _with_daemon(connection: Connection, options: EmbedOptions) -> EmbedQueries:
    async def embed(texts: Sequence[str]) -> None:
        body = {"input": list(texts), "encoding_format": "base64", "cache": "keep", **options.as_body()}
        await connection.post("/v1/embeddings", body)

    return embed


def _with_service(service: EmbeddingService, options: EmbedOptions) -> EmbedQueries:
    async def embed(texts: Sequence[str]) -> None:
        await service.embed(msgspec.structs.replace(options.as_request(texts), cache="keep"))

    return embed
