"""Who makes vectors of texts: the running daemon, or an engine of our own. A job does not know which."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from edgeembed import __version__
from edgeembed.bulk.retry import with_retries
from edgeembed.client import Connection, connected
from edgeembed.config.resolution import Resolved
from edgeembed.errors import (
    ConfigError,
    EdgeEmbedError,
    EngineError,
    EngineTimeoutError,
    EngineUnavailableError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
)
from edgeembed.hub.install import ensure_installed
from edgeembed.inference.postprocess import Matrix
from edgeembed.inference.requests import EmbedRequest, RerankRequest, TokenizeRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.prompts import InputType
from edgeembed.models.registry import ServedModel, served
from edgeembed.runtime.models import ConfiguredModels
from edgeembed.runtime.service import make_service

PROBE = "edgeembed"
"""A text that is embedded to learn what the model gives."""
_REQUEST_SECONDS = 900.0
"""Longer than a daemon waits before it gives a request up."""
_HEALTH_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class EmbedOptions(NamedTuple):
    """How texts are embedded. model: None takes the daemon's own, or that of the settings."""

    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    dimensions: int | None = None


class EmbedderInfo(NamedTuple):
    """What computes. digest: SHA-256 of the model's file, empty where a daemon does not tell it.

    batch_tokens: tokens that a forward pass aims at, 0 where nobody tells. engine: build and device in words, empty where
    nobody tells.
    """

    model: str
    digest: str
    dimensions: int
    by: str
    """In words, for a person."""
    at_once: int
    """Requests that keep it busy."""
    batch_tokens: int = 0
    engine: str = ""


class Embedder(Protocol):
    """Embeds texts; any number of calls at once."""

    info: EmbedderInfo

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Give a row of length 1 for each text, float32, shape (texts, dimensions).

        Raises EdgeEmbedError, whose `param` is input[N] when text N is at fault; EngineUnavailableError, OverloadedError and
        EngineTimeoutError may pass.
        """
        ...

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, without the marks and the prompt around it. Raises EdgeEmbedError."""
        ...


class Scored(NamedTuple):
    """The relevance of each document, from 0 to 1, in their order."""

    model: str
    scores: list[float]


@asynccontextmanager
async def open_embedder(
    resolved: Resolved, how: EmbedOptions, say: Callable[[str], None], *, own: bool = False
) -> AsyncIterator[Embedder]:
    """Take the running daemon, or where none answers, or with `own`, load the model here. Raises EdgeEmbedError."""
    async with connected(resolved.settings) as connection:
        if not own and await _answers(connection):
            embedder = DaemonEmbedder(connection, how)
            await embedder.learn()
            yield embedder
            return
    async with own_service(resolved, say) as (service, model):
        engine = LocalEmbedder(service, model, how)
        await engine.learn()
        yield engine


async def rerank(
    resolved: Resolved, query: str, documents: Sequence[str], model: str | None, say: Callable[[str], None]
) -> Scored:
    """Score documents against a query, by the running daemon or by a reranker loaded here. Raises EdgeEmbedError."""
    async with connected(resolved.settings) as connection:
        if await _answers(connection):
            named = {"model": model} if model else {}
            answer = await _post(connection, "/v1/rerank", {"query": query, "documents": list(documents), **named})
            scores = {item["index"]: item["relevance_score"] for item in answer["results"]}
            return Scored(answer["model"], [scores[index] for index in range(len(documents))])
    async with own_service(resolved, say) as (service, _):
        result = await service.rerank(RerankRequest(query, documents, model=model))
        return Scored(result.model.name, result.scores)


class DaemonEmbedder:
    """The running daemon: at bulk priority, past its cache."""

    info: EmbedderInfo

    def __init__(self, connection: Connection, how: EmbedOptions) -> None:
        self._connection = connection
        self._body = {name: value for name, value in how._asdict().items() if value is not None}
        self._marks: int | None = None

    async def learn(self) -> None:
        """Ask which model answers, and hold on to it."""
        answer = await with_retries(lambda: self._ask([PROBE]))
        self._body.setdefault("model", answer["model"])
        reply = await self._connection.ask("/v1/status", _HEALTH_SECONDS)
        loaded = (reply.body.get("models") if reply else None) or []
        named = str(self._body["model"]).lower().removesuffix(":query").removesuffix(":document")
        same = [model for model in loaded if isinstance(model, dict) and model.get("name") == answer["model"]]
        # Where two types of a model are loaded, only a name with the type says which one answers.
        exact = [model for model in same if f"{model.get('name')}:{model.get('type')}".lower() == named]
        digests = {str(model.get("digest", "")) for model in exact or same}
        self.info = EmbedderInfo(
            model=answer["model"],
            digest=digests.pop() if len(digests) == 1 else "",
            dimensions=_matrix(answer).shape[1],
            by=f"the daemon at {reply.url.removesuffix('/v1/status')}" if reply else "the daemon",
            at_once=4,
            engine=str((exact or same or [{}])[0].get("device") or ""),
        )

    async def embed(self, texts: Sequence[str]) -> Matrix:
        answer = await self._ask(texts, repeatable=True)
        if answer["model"] != self.info.model:
            raise ConfigError(f"the daemon answers with the model {answer['model']}, and did with {self.info.model} before")
        matrix = _matrix(answer)
        if matrix.shape != (len(texts), self.info.dimensions):
            raise EngineError(f"the daemon gives rows of the shape {matrix.shape} for {len(texts)} texts")
        return matrix

    async def count(self, texts: Sequence[str]) -> list[int]:
        if self._marks is None:
            self._marks = (await self._tokens([""]))[0]
        counts = await self._tokens(texts)
        return [max(count - self._marks, 0) for count in counts]

    async def _tokens(self, texts: Sequence[str]) -> list[int]:
        body = {"input": list(texts), **{name: value for name, value in self._body.items() if name != "dimensions"}}
        answer = await _post(self._connection, "/v1/tokenize", body)
        return [item["tokens"] for item in answer["data"]]

    async def _ask(self, texts: Sequence[str], *, repeatable: bool = False) -> dict[str, Any]:
        body = {"input": list(texts), "encoding_format": "base64", "cache": False, "repeatable": repeatable, **self._body}
        return await _post(self._connection, "/v1/embeddings", body)


class LocalEmbedder:
    """A model loaded for this job in a worker of this process."""

    info: EmbedderInfo

    def __init__(self, service: EmbeddingService, model: ServedModel, how: EmbedOptions) -> None:
        self._service = service
        self._model = model
        self._how = how

    async def learn(self) -> None:
        """Load the model."""
        width = len((await with_retries(lambda: self._ask([PROBE])))[0])
        slot = self._service.pool.slot_of(self._model)
        assert slot is not None and slot.engine is not None and slot.engine.info is not None, "it has just computed"
        info, status = slot.engine.info, slot.engine.status
        self.info = EmbedderInfo(
            self._model.name,
            self._model.digest,
            width,
            "this process",
            at_once=4,
            batch_tokens=info.batch_tokens,
            engine=f"edgeembed {__version__}, {status.mode}, {info.llama_cpp}",
        )

    async def embed(self, texts: Sequence[str]) -> Matrix:
        return await self._ask(texts)

    async def count(self, texts: Sequence[str]) -> list[int]:
        result = await self._service.count_tokens(TokenizeRequest(texts, special=False))
        return [len(text.ids) for text in result.tokens]

    async def _ask(self, texts: Sequence[str]) -> Matrix:
        how = self._how
        request = EmbedRequest(
            texts,
            input_type=how.input_type,
            instruction=how.instruction,
            dimensions=how.dimensions,
            cache="off",
            repeatable=True,
        )
        return (await self._service.embed(request)).vectors


@asynccontextmanager
async def own_service(resolved: Resolved, say: Callable[[str], None]) -> AsyncIterator[tuple[EmbeddingService, ServedModel]]:
    """Load the model of the settings here, without a cache. Raises ConfigError when none is chosen."""
    settings, paths = resolved.settings, resolved.paths
    if settings.model is None:
        raise ConfigError("no daemon answers, and no model is chosen yet; name one with --model")
    model = served(ensure_installed(settings.model, paths=paths, settings=settings, report=say))
    alone = msgspec.structs.replace(settings, cache=False, max_queue_tokens=0)
    service = make_service(alone, paths, ConfiguredModels(model))
    try:
        yield service, model
    finally:
        await service.pool.close()


async def _answers(connection: Connection) -> bool:
    reply = await connection.ask("/livez", _HEALTH_SECONDS)
    return reply is not None and reply.ours


async def _post(connection: Connection, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await connection.ask(path, _REQUEST_SECONDS, body)
    if reply is None:
        raise EngineUnavailableError("the daemon answers no more", retry_after=_RETRY_SECONDS)
    if reply.status == 200:
        return reply.body
    found = reply.body.get("error")
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    message, param = str(error.get("message") or f"the daemon answers with status {reply.status}"), error.get("param")
    raise error_of(reply.status, message, param if isinstance(param, str) else None)


def error_of(status: int, message: str, param: str | None) -> EdgeEmbedError:
    """Give the error that another process had. status: HTTP's."""
    kind: type[EdgeEmbedError]
    match status:
        case 413:
            kind = RequestTooLargeError
        case 429:
            kind = OverloadedError
        case 502 | 503:
            kind = EngineUnavailableError
        case 504:
            kind = EngineTimeoutError
        case _:
            kind = RequestError if 400 <= status < 500 else EngineError
    return kind(message, param=param, retry_after=_RETRY_SECONDS)


def _matrix(answer: dict[str, Any]) -> Matrix:
    data = sorted(answer["data"], key=lambda item: item["index"])
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]).astype(np.float32)
