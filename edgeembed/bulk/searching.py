"""Searches what jobs have written: embeds the query with the model that made the rows, finds the nearest, reranks them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from edgeembed.bulk.embedders import Embedder
from edgeembed.bulk.stores.faiss_index import FaissRows, named_by
from edgeembed.bulk.stores.files import FileRows
from edgeembed.bulk.stores.interface import Found, Searchable, StoreInfo, Where
from edgeembed.bulk.stores.targets import Target, kind_of
from edgeembed.errors import ConfigError, UnknownModelError
from edgeembed.hub.references import parse_spec
from edgeembed.inference.postprocess import Matrix

CANDIDATES = 4
"""How many times as many rows as are wanted a reranker sees."""
LEAST_CANDIDATES = 32

Reranker = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]
"""Returns the relevance of each text to a query."""


def open_rows(name: str) -> Searchable:
    """Open what a job wrote: a store, a file or a folder of shards. Raises ConfigError."""
    if (index := named_by(name)) is not None:
        return FaissRows(index)
    target = Target.parse(name)
    return FileRows(Path(name)) if target is None else kind_of(target).open(target)


def recorded_model(info: StoreInfo, configured: str | None, place: str) -> str | None:
    """Return what to call the model that made a store; None if it is not recorded.

    configured: the model of the settings, which may be the file by whose name the store knows it. place: the store, for
    people. Raises ConfigError if what is recorded is the path of a file or a repository of the model hub.
    """
    if configured and configured.endswith(".gguf") and Path(configured).stem == info.model:
        return configured
    if not info.model:
        return None
    if not _is_name(info.spec):
        raise ConfigError(
            f"{place} records {info.spec} as its model, which edgeembed does not write and which is not loaded because a "
            "file says so; if you trust it, name it with --model"
        )
    return info.spec


def _is_name(spec: str) -> bool:
    """Return whether a model is called by a name, and not by a path or a reference to the model hub."""
    try:
        found = parse_spec(spec)
    except UnknownModelError:
        return True  # such as one that only a daemon knows
    return found.path is None and found.reference is None


async def query_vector(embedder: Embedder, query: str, rows: Searchable, place: str) -> Matrix:
    """Return the vector of a query, as short as those in the store. place: the store, for people.

    Raises EdgeEmbedError, of which ConfigError if the model is not the one that made the store.
    """
    info = embedder.info
    rows.info.require_same_model(info.model, info.digest, info.dimensions, place)
    computed = await embedder.embed([query])
    vector = computed.dense[0, : rows.info.dimensions]
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


async def reranked(found: Sequence[Found], query: str, k: int, place: str, rerank: Reranker) -> list[Found]:
    """Return the k best of the rows that were found, by a reranker's scores. Raises EdgeEmbedError."""
    texts = [row.text for row in found if row.text is not None]
    if len(texts) < len(found):
        raise ConfigError(f"{place} holds no texts to rerank; write it with --with-text")
    scores = await rerank(query, texts) if texts else []
    scored = [row._replace(score=score) for row, score in zip(found, scores, strict=True)]
    return sorted(scored, key=lambda row: -row.score)[:k]


def candidates(k: int, *, rerank: bool) -> int:
    """Return how many rows to look for."""
    return max(CANDIDATES * k, LEAST_CANDIDATES) if rerank else k


def parse_where(conditions: Sequence[str]) -> Where:
    """Return conditions written COLUMN=VALUE; several values of one column mean any of them. Raises ConfigError."""
    found: dict[str, list[str | int | float]] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not (name and equals):
            raise ConfigError(f"{condition!r} is no condition; expected COLUMN=VALUE")
        found.setdefault(name, []).extend(_readings(value))
    return found


def _readings(value: str) -> list[str | int | float]:
    """Return the values that a word on the command line may stand for: itself, a number or a truth value."""
    readings: list[str | int | float] = [value]
    if value in ("true", "false"):
        readings.append(value == "true")
    for type_ in (int, float):
        try:
            readings.append(type_(value))
        except ValueError:
            continue
        break
    return readings
