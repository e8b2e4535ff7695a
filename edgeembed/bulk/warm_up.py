"""Fills the cache from a file of queries, with the running daemon or a model loaded in this process."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeembed.bulk.embedders import EmbedOptions
from edgeembed.client import Connection, connected
from edgeembed.common.files import UNREADABLE_JSON, describe_os_error
from edgeembed.common.progress import ReportLine
from edgeembed.config.resolution import Resolved
from edgeembed.errors import CacheFileError, EdgeEmbedError
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
    """Read queries without duplicates: one per line, or in a .jsonl file a string or {"text": …} per line.

    Raises CacheFileError naming the line that is wrong, or when the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CacheFileError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise CacheFileError(f"cannot read {describe_os_error(error, path)}") from error
    queries: dict[str, None] = {}
    as_json = path.suffix.lower() in (".jsonl", ".ndjson")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text = _text_of(line) if as_json else line
        if text is None:
            raise CacheFileError(f'{path}, line {number}: expected a JSON string, or an object such as {{"text": "…"}}')
        if text:
            queries[text] = None
    return list(queries)


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


def _text_of(line: str) -> str | None:
    try:
        value = msgspec.json.decode(line)
    except UNREADABLE_JSON:
        return None
    if isinstance(value, dict):
        value = next((value[name] for name in _FIELDS if name in value), None)
    return value if isinstance(value, str) else None
