"""GET /info in the dialect of text-embeddings-inference (TEI): the default model, and what a request may hold."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from edgeembed import __version__
from edgeembed.engine.classes import Classes
from edgeembed.engine.interface import ModelInfo
from edgeembed.engine.ipc.activity_table import READING
from edgeembed.errors import EngineUnavailableError
from edgeembed.inference.classifying import SCORE
from edgeembed.models.served_model import ServedModel
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.connections import most_connections
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()


class EmbeddingType(msgspec.Struct):
    """An embedder and its pooling."""

    pooling: str


class LabelsType(msgspec.Struct):
    """A classifier with the names of its classes, or a reranker with that of its single score."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(msgspec.Struct):
    """What the model is for; one of the fields is present."""

    embedding: EmbeddingType | UnsetType = UNSET
    reranker: LabelsType | UnsetType = UNSET
    classifier: LabelsType | UnsetType = UNSET


class TeiInfo(msgspec.Struct):
    """The default model and the limits of requests, in tokens with special tokens included.

    Any request may have `max_client_batch_size` texts of `max_input_length` tokens. A forward pass has at most
    `max_batch_tokens`. Each connection, of which there are at most `max_concurrent_requests`, has one request at a time.
    """

    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: ModelType
    max_input_length: int
    max_client_batch_size: int
    max_batch_tokens: int
    max_concurrent_requests: int
    tokenization_workers: int
    auto_truncate: bool
    version: str
    max_batch_requests: int | None = None
    sha: str | None = None
    docker_label: str | None = None


@routes.get("/info")
async def info(request: web.Request) -> web.Response:
    """Describe the default model; 503 until it is loaded."""
    service = request.app[SERVICE]
    model = await service.registry.default_model()
    if model is None:
        raise EngineUnavailableError("no model is served", retry_after=1.0)
    async with service.pool.lease(model) as lease:
        loaded = lease.engine.info
    if loaded is None:
        raise EngineUnavailableError("the model is loading", retry_after=1.0)
    most_whole = service.max_listed_tokens // loaded.context_tokens  # a request may hold so many texts of full length
    return struct_response(
        TeiInfo(
            model_id=model.name,
            model_sha=model.digest,
            model_dtype=model.type,
            served_model_name=model.name,
            model_type=_model_type(model, loaded),
            max_input_length=loaded.context_tokens,
            max_client_batch_size=max(1, min(request.app[MAX_REQUEST_TEXTS], most_whole)),
            max_batch_tokens=max(loaded.batch_tokens, loaded.context_tokens),
            max_concurrent_requests=most_connections(),
            tokenization_workers=len(READING),
            auto_truncate=True,
            version=__version__,
        )
    )


def _model_type(model: ServedModel, loaded: ModelInfo) -> ModelType:
    if model.task == "embed":
        return ModelType(embedding=EmbeddingType("splade" if model.outputs == ("sparse",) else loaded.pooling))
    if model.classes is not None:
        return ModelType(classifier=_labels(model.classes))
    return ModelType(reranker=_labels(SCORE))


def _labels(classes: Classes) -> LabelsType:
    return LabelsType(
        {str(number): label for number, label in enumerate(classes.labels)},
        {label: number for number, label in enumerate(classes.labels)},
    )
