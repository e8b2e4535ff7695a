"""Queries embedded ahead: a file of them, batch by batch, by the running daemon or by a model loaded for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeembed.client import ask
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.errors import CacheFileError, ConfigError, EdgeEmbedError
from edgeembed.hub.install import ensure_installed
from edgeembed.inference.requests import EmbedRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.prompts import InputType
from edgeembed.models.registry import served
from edgeembed.runtime.models import ConfiguredModels
from edgeembed.runtime.service import make_service

TEXTS_AT_ONCE = 64
_FIELDS = ("text", "query", "input")
_REQUEST_SECONDS = 600.0

Embed = Callable[[Sequence[str]], Awaitable[None]]
"""Embeds texts so that the cache keeps them. Raises EdgeEmbedError, whose `param` names the text at fault where one is."""
Report = Callable[[int, int], None]


class EmbedOptions(NamedTuple):
    """How clients will ask: a vector is found again by requests with the same model and prompt only."""

    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None


class Warmed(NamedTuple):
    """How a file of queries fared. refused: the reason for each query that the model does not take."""

    queries: int
    refused: list[str]


def read_queries(path: Path) -> list[str]:
    """Read queries, each once: one in each line, or in a .jsonl file a string or {"text": …} in each.

    Raises CacheFileError naming the line that is wrong, OSError when the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CacheFileError(f"{path} is not UTF-8: {error}") from error
    queries: dict[str, None] = {}
    as_json = path.suffix.lower() in (".jsonl", ".ndjson")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text = _text_of(line) if as_json else line
        if text is None:
            raise CacheFileError(f'{path}, line {number}: a JSON string, or an object such as {{"text": "…"}}, is expected')
        if text:
            queries[text] = None
    return list(queries)


async def warm_cache(
    queries: Sequence[str], how: EmbedOptions, resolved: Resolved, report: Report, say: Callable[[str], None]
) -> Warmed:
    """Embed queries ahead through the running daemon; where none answers, load the model of the settings for it.

    Raises EdgeEmbedError.
    """
    reply = await ask(resolved.settings, "/health")
    if reply is not None and reply.ours:
        return await warm(queries, _by_daemon(resolved.settings, how), report)
    async with _own_service(resolved, say) as service:
        return await warm(queries, _by_service(service, how), report)


async def warm(queries: Sequence[str], embed: Embed, report: Report) -> Warmed:
    """Embed queries ahead; one that is refused costs the others nothing. Raises EdgeEmbedError when none can be embedded."""
    warmed = 0
    refused: list[str] = []
    for first in range(0, len(queries), TEXTS_AT_ONCE):
        batch = list(queries[first : first + TEXTS_AT_ONCE])
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
        report(min(len(queries), first + TEXTS_AT_ONCE), len(queries))
    return Warmed(warmed, refused)


def _by_daemon(settings: Settings, how: EmbedOptions) -> Embed:
    async def embed(texts: Sequence[str]) -> None:
        body = {"input": list(texts), "encoding_format": "base64", "cache": "keep", **how._asdict()}
        reply = await ask(settings, "/v1/embeddings", _REQUEST_SECONDS, body)
        if reply is None:
            raise EdgeEmbedError("the daemon answers no more")
        if reply.status != 200:
            error = reply.body.get("error") or {}
            raise EdgeEmbedError(error.get("message") or f"the daemon answers {reply.status}", param=error.get("param"))

    return embed


def _by_service(service: EmbeddingService, how: EmbedOptions) -> Embed:
    async def embed(texts: Sequence[str]) -> None:
        await service.embed(EmbedRequest(texts, input_type=how.input_type, instruction=how.instruction, cache="keep"))

    return embed


@asynccontextmanager
async def _own_service(resolved: Resolved, say: Callable[[str], None]) -> AsyncIterator[EmbeddingService]:
    """Load the model of the settings in a worker of this process."""
    settings, paths = resolved.settings, resolved.paths
    if settings.model is None:
        raise ConfigError("no daemon answers, and no model is chosen yet; name one with --model")
    model = ensure_installed(settings.model, paths=paths, settings=settings, report=say)
    service = make_service(settings, paths, ConfiguredModels(served(model)))
    if service.cache is None:
        raise ConfigError("the cache is switched off by the setting `cache`")
    await service.cache.open()
    try:
        yield service
    finally:
        await service.pool.close()
        await service.cache.close()


def _text_of(line: str) -> str | None:
    try:
        value = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    if isinstance(value, dict):
        value = next((value[name] for name in _FIELDS if name in value), None)
    return value if isinstance(value, str) else None
