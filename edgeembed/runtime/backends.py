"""What answers a Python program: the running daemon, or an engine of its own. The program does not see which."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, get_args
from urllib.parse import quote

import msgspec
import numpy as np

from edgeembed.client import Connection, Reply, checked, connected
from edgeembed.common.progress import ReportLine
from edgeembed.common.retry import with_retries
from edgeembed.config.resolution import Resolved
from edgeembed.engine.interface import Float32Row, Output, Task
from edgeembed.errors import ConfigError, DaemonGoneError, EngineError, OverloadedError
from edgeembed.inference.postprocess import Matrix, unit_rows
from edgeembed.inference.requests import EmbedRequest, EmbedResult, LongText, RerankRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.registry import COSINE
from edgeembed.models.served_model import ServedModel
from edgeembed.runtime.in_process import in_process_service

_RETRY_SECONDS = 20.0
"""How long a request waits for a daemon that restarts, or whose queue is full."""
_FIELDS = ("input_type", "instruction", "dimensions")
OUTPUT_FIELDS: dict[Output, str] = {"dense": "return_dense", "multi": "multi_vector", "sparse": "sparse"}
"""Fields of a request of POST /v1/embeddings that ask for outputs."""
STATES = {"task": "token_embed", "multi_vector": False, "normalize": False}
"""Fields of a request of POST /pooling for hidden states."""


Parts: TypeAlias = Mapping[Output, Matrix]
"""The outputs of a text: dense (1, dimensions) and multi (vectors, dimensions) of length 1, sparse (tokens, 2) with ids and
weights, tokens (tokens, width) as computed."""


class Backend(Protocol):
    """Answers requests; any number may run at the same time.

    Both methods raise EdgeEmbedError; its `param` names the request's field, with an index where one text is at fault.
    """

    description: str
    """What computes, for people: "this process", "the daemon at ..."."""

    async def embed(self, request: EmbedRequest) -> Matrix:
        """Return a row of length 1 for each text, float32, shape (texts, dimensions)."""
        ...

    async def outputs(self, request: EmbedRequest) -> list[Parts]:
        """Return the request's outputs of each text."""
        ...

    async def rerank(self, request: RerankRequest) -> list[float]:
        """Return the relevance of each document: a reranker's from 0 to 1, an embedder's cosine, or MaxSim's mean cosine."""
        ...


class DaemonBackend:
    """The running daemon, with its cache."""

    def __init__(
        self,
        connection: Connection,
        model: str | None = None,
        scorer: str | None = None,
        fields: dict[str, Any] | None = None,
        digest: str = "",
    ) -> None:
        """model: None for the daemon's default model. scorer: its name where it scores. fields: further ones of each body.

        digest: of the model's file, if that is known.
        """
        self._connection = connection
        self._fields = fields or {}
        self._model = model
        self._scorer = scorer
        self._same = _SameFile(digest)
        self.description = f"the daemon at {connection.url}"

    async def embed(self, request: EmbedRequest) -> Matrix:
        return np.stack([_row(item["embedding"]) for item in await self._items(request, {})])

    async def outputs(self, request: EmbedRequest) -> list[Parts]:
        wanted = set(request.outputs)
        found: list[dict[Output, Matrix]] = [{} for _ in request.texts]
        if wanted != {"tokens"}:
            fields = {name: output in wanted for output, name in OUTPUT_FIELDS.items()}
            for parts, item in zip(found, await self._items(request, fields), strict=True):
                parts.update(parts_of(item))
        if "tokens" in wanted:
            for parts, item in zip(found, await self._items(request, STATES, "/pooling"), strict=True):
                parts["tokens"] = states_of(item)
        require_outputs(request.outputs, found)
        return [*found]

    async def _items(
        self, request: EmbedRequest, fields: dict[str, Any], path: str = "/v1/embeddings"
    ) -> list[dict[str, Any]]:
        """Return the items of an answer, in the order of the texts."""
        body = _options(request, self._model) | self._fields | fields
        if fields:
            body.pop("long_text", None)  # it is for dense vectors alone
        body |= {"input": list(request.texts), "encoding_format": "base64"}
        if request.prefix is not None:
            body["prompt"] = request.prefix
        reply = await self._post(path, body)
        model = str(reply.body["model"])
        self._same.require(model, reply.digest)
        self._model = self._model or model  # another one may become the default
        items = items_of(reply)
        if len(items) != len(request.texts):
            raise EngineError(f"the daemon returned {len(items)} rows for {len(request.texts)} texts")
        return items

    async def rerank(self, request: RerankRequest) -> list[float]:
        body = _options(request, self._scorer) | {name: value for name, value in self._fields.items() if name == "cache"}
        if "long_text" in self._fields:
            body["long_text"] = "max" if self._fields["long_text"] == "mean" else "none"
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
        self._model = model.name
        self._scorer = _scorer(model.name, model.task, model.outputs) if named else None
        self._same = _SameFile("")

    async def embed(self, request: EmbedRequest) -> Matrix:
        return (await self._embed(request, self._service.long_text)).vectors

    async def outputs(self, request: EmbedRequest) -> list[Parts]:
        result = await self._embed(request, "none")
        found = []
        for index in range(len(result.rows)):
            parts = {output: result.parts(output, slice(index, index + 1))[0] for output in result.outputs}
            for output in ("dense", "multi"):
                if len(parts.get(output, ())):
                    parts[output] = unit_rows([*parts[output]])
            found.append(parts)
        return [*found]

    async def _embed(self, request: EmbedRequest, long_text: LongText) -> EmbedResult:
        asked = msgspec.structs.replace(
            request, model=self._model, lengths=Lengths(self._service.truncate), long_text=long_text
        )
        result = await self._service.embed(asked)
        self._same.require(result.model.name, result.model.digest)
        return result

    async def rerank(self, request: RerankRequest) -> list[float]:
        windows = self._service.long_text != "none"
        return (await self._service.rerank(msgspec.structs.replace(request, model=self._scorer, windows=windows))).scores


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
    settings, origins = resolved.settings, resolved.origins
    if origins["long_text"] != "default" and (settings.long_text != "none" or origins["truncate"] == "default"):
        fields["long_text"] = settings.long_text
    elif origins["truncate"] != "default":
        fields["truncate"] = settings.truncate
    if not resolved.settings.cache:
        fields["cache"] = False
    if model is None:
        return DaemonBackend(connection, fields=fields)
    reply = await connection.ask(f"/v1/models/{quote(model, safe='/:')}")
    if reply is None or reply.status == 404:
        return None
    found = checked(reply).body
    task: Any = found.get("task")
    if task not in get_args(Task):  # a model of the server that the setting `forward` names
        return None
    return DaemonBackend(connection, model, _scorer(model, task, found.get("outputs") or ()), fields, digest)


def _scorer(model: str, task: Task, outputs: Collection[str]) -> str:
    """Return the name by which a model scores documents: an embedder by MaxSim, if it can, or else by the cosine."""
    return f"{model}{COSINE}" if task == "embed" and "multi" not in outputs else model


@asynccontextmanager
async def engine_backend(resolved: Resolved, report: ReportLine, *, named: bool) -> AsyncIterator[EngineBackend]:
    """Load the configured model, which is installed, and yield it as a backend; its worker ends with the context.

    named: see `EngineBackend`. Raises EdgeEmbedError.
    """
    async with in_process_service(resolved, report, cache=resolved.settings.cache) as (service, model):
        await service.pool.load(model)
        yield EngineBackend(service, model, named=named)


def _row(written: str) -> Float32Row:
    """Return a row of float32 that is written in base64."""
    return np.frombuffer(base64.b64decode(written), "<f4").astype(np.float32)


def items_of(reply: Reply) -> list[dict[str, Any]]:
    """Return the items of an answer in the order of the texts."""
    return sorted(reply.body["data"], key=lambda item: item["index"])


def states_of(item: dict[str, Any]) -> Matrix:
    """Return the hidden states of an item of an answer of POST /pooling to a request with the fields `STATES`."""
    return _row(item["data"]).reshape(item["shape"])


def require_outputs(outputs: Sequence[Output], found: Sequence[Parts]) -> None:
    """Raise EngineError if what a daemon returned of texts lacks an output."""
    if missing := [output for output in outputs if any(output not in parts for parts in found)]:
        raise EngineError(f"the daemon returned no {missing[0]} output; it is of an earlier version: restart it")


def parts_of(item: dict[str, Any]) -> dict[Output, Matrix]:
    """Return the outputs of an item of an answer of POST /v1/embeddings."""
    parts: dict[Output, Matrix] = {}
    if "embedding" in item:
        parts["dense"] = _row(item["embedding"])[None]
    if "multi_embedding" in item:
        rows = [_row(row) for row in item["multi_embedding"]]
        parts["multi"] = np.stack(rows) if rows else np.empty((0, 0), np.float32)
    if "sparse_embedding" in item:
        sparse = item["sparse_embedding"]
        parts["sparse"] = np.array([sparse["indices"], sparse["values"]], dtype=np.float32).T
    return parts


def _options(request: EmbedRequest | RerankRequest, model: str | None) -> dict[str, Any]:
    """Return the options of a request that are set, as fields of a body."""
    found = {name: value for name in _FIELDS if (value := getattr(request, name, None)) is not None}
    found |= {"model": model} if model else {}
    return found
