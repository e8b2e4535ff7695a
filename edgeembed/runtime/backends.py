"""What answers a Python program: the running daemon, or an engine of its own. The program does not see which."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
import numpy as np

from edgeembed.client import Connection, Reply, checked, connected
from edgeembed.common.progress import ReportLine
from edgeembed.common.retry import with_retries
from edgeembed.config.resolution import Resolved
from edgeembed.engine.interface import Task
from edgeembed.errors import ConfigError, DaemonGoneError, EngineError, OverloadedError
from edgeembed.inference.postprocess import Matrix
from edgeembed.inference.requests import EmbedRequest, RerankRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.registry import COSINE, ServedModel
from edgeembed.runtime.in_process import in_process_service

_RETRY_SECONDS = 20.0
"""How long a request waits for a daemon that restarts, or whose queue is full."""
_FIELDS = ("input_type", "instruction", "dimensions")


class Backend(Protocol):
    """Answers requests; any number may run at the same time.

    Both methods raise EdgeEmbedError; its `param` names the request's field, with an index where one text is at fault.
    """

    description: str
    """What computes, for people: "this process", "the daemon at ..."."""

    async def embed(self, request: EmbedRequest) -> Matrix:
        """Return a row of length 1 for each text, float32, shape (texts, dimensions)."""
        ...

    async def rerank(self, request: RerankRequest) -> list[float]:
        """Return the relevance of each document, from 0 to 1; with an embedder, the cosine."""
        ...


class DaemonBackend:
    """The running daemon, with its cache."""

    def __init__(
        self,
        connection: Connection,
        model: str | None = None,
        task: Task = "embed",
        fields: dict[str, Any] | None = None,
        digest: str = "",
    ) -> None:
        """model: None for the daemon's default model. task: the model's. fields: further ones of each body.

        digest: of the model's file, if that is known.
        """
        self._connection = connection
        self._fields = fields or {}
        self._model = model
        self._scorer = f"{model}{COSINE}" if model and task == "embed" else model
        self._same = _SameFile(digest)
        self.description = f"the daemon at {connection.url}"

    async def embed(self, request: EmbedRequest) -> Matrix:
        body = _options(request, self._model) | self._fields
        body |= {"input": list(request.texts), "encoding_format": "base64"}
        if request.prefix is not None:
            body["prompt"] = request.prefix
        reply = await self._post("/v1/embeddings", body)
        model = str(reply.body["model"])
        self._same.require(model, reply.digest)
        self._model = self._model or model  # another one may become the default
        rows = rows_of(reply.body)
        if len(rows) != len(request.texts):
            raise EngineError(f"the daemon returned {len(rows)} rows for {len(request.texts)} texts")
        return rows

    async def rerank(self, request: RerankRequest) -> list[float]:
        body = _options(request, self._scorer) | {name: value for name, value in self._fields.items() if name == "cache"}
        body |= {"query": request.query, "documents": list(request.documents)}
        answer = (await self._post("/v1/rerank", body | {"return_documents": False})).body
        scores = {item["index"]: float(item["relevance_score"]) for item in answer["results"]}
        return [scores[index] for index in range(len(request.documents))]

    async def _post(self, path: str, body: dict[str, Any]) -> Reply:
        temporary = (DaemonGoneError, OverloadedError)
        return await with_retries(lambda: self._connection.post(path, body), temporary, _RETRY_SECONDS)


class EngineBackend:
    """A model loaded for this program, in a worker of its own, with the cache that daemons use."""

    description = "this process"

    def __init__(self, service: EmbeddingService, model: ServedModel, *, named: bool) -> None:
        """model: the default one. named: it alone is used; otherwise another one may rerank."""
        self._service = service
        self._lengths = Lengths(service.truncate)
        self._model = model.name
        scorer = f"{model.name}{COSINE}" if model.task == "embed" else model.name
        self._scorer = scorer if named else None
        self._same = _SameFile("")

    async def embed(self, request: EmbedRequest) -> Matrix:
        result = await self._service.embed(msgspec.structs.replace(request, model=self._model, lengths=self._lengths))
        self._same.require(result.model.name, result.model.digest)
        return result.vectors

    async def rerank(self, request: RerankRequest) -> list[float]:
        return (await self._service.rerank(msgspec.structs.replace(request, model=self._scorer))).scores


class _SameFile:
    """Rows of one program come from one model file: those of another cannot be compared with them."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def require(self, model: str, digest: str) -> None:
        """Raise ConfigError for rows of another file than the first ones. An empty digest is unknown."""
        self._digest = self._digest or digest
        if digest and digest != self._digest:
            raise ConfigError(
                f"the vectors now come from another file, of the model {model}, and cannot be compared with the earlier "
                "ones; to go on with it, make a new Embedder"
            )


@asynccontextmanager
async def daemon_backend(resolved: Resolved, model: str | None, digest: str = "") -> AsyncIterator[DaemonBackend | None]:
    """Yield the daemon as a backend, if one runs and has the model (None: its default model); otherwise None.

    digest: of the model's file, where it is known. Raises EdgeEmbedError.
    """
    async with connected(resolved.settings) as connection:
        yield await _find_daemon(connection, resolved, model, digest)


async def _find_daemon(connection: Connection, resolved: Resolved, model: str | None, digest: str) -> DaemonBackend | None:
    if not await connection.is_running():
        return None
    # What this program sets, or all programs of this user: the daemon may have been started with something else.
    fields: dict[str, Any] = {}
    if resolved.origins["truncate"] != "default":
        fields["truncate"] = resolved.settings.truncate
    if not resolved.settings.cache:
        fields["cache"] = False
    if model is None:
        return DaemonBackend(connection, fields=fields)
    reply = await connection.ask(f"/v1/models/{quote(model, safe='/:')}")
    if reply is None or reply.status == 404:
        return None
    task = checked(reply).body.get("task")
    if task not in ("embed", "rerank"):  # a model of the server that the setting `forward` names
        return None
    return DaemonBackend(connection, model, task, fields, digest)


@asynccontextmanager
async def engine_backend(resolved: Resolved, report: ReportLine, *, named: bool) -> AsyncIterator[EngineBackend]:
    """Load the configured model, which is installed, and yield it as a backend; its worker ends with the context.

    named: see `EngineBackend`. Raises EdgeEmbedError.
    """
    async with in_process_service(resolved, report, cache=resolved.settings.cache) as (service, model):
        await service.pool.load(model)
        yield EngineBackend(service, model, named=named)


def rows_of(answer: dict[str, Any]) -> Matrix:
    """Return the rows of an answer of POST /v1/embeddings with base64, float32, in the order of the texts."""
    data = sorted(answer["data"], key=lambda item: item["index"])
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]).astype(np.float32)


def _options(request: EmbedRequest | RerankRequest, model: str | None) -> dict[str, Any]:
    """Return the options of a request that are set, as fields of a body."""
    found = {name: value for name in _FIELDS if (value := getattr(request, name, None)) is not None}
    found |= {"model": model} if model else {}
    return found
