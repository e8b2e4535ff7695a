"""GET /openapi.json: the OpenAPI 3.1 document, made from the routes, their docstrings and the types of their bodies.

`OPERATIONS` has the types of each route; everything else is taken from the application. Tests check that real requests and
responses match the document.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET

from edgeembed import __version__
from edgeembed.common import status as common_status
from edgeembed.common.status import AdminStatus, DaemonStatus, Health, ListedModel
from edgeembed.server import error_formats, responses
from edgeembed.server.body import CACHE_HEADER
from edgeembed.server.dialects import (
    cohere,
    embeddings_body,
    lm_studio,
    ollama_embed,
    ollama_generate,
    ollama_manage,
    ollama_models,
    rerank,
    rerank_answer,
    score,
    tei,
    tei_info,
    tei_scores,
    tei_tokens,
    tokenize,
    tokenize_path,
)
from edgeembed.server.fields import TRUNCATED_HEADER, RowsField
from edgeembed.server.ops import admin, base_url
from edgeembed.server.ops.schemas import Anything, EmbeddingsAnswer, LiveAnswer, ModelsAnswer

routes = web.RouteTableDef()

_REF = "#/components/schemas/{name}"
_COMPUTES = (400, 401, 403, 404, 413, 429, 500, 503, 504)
_TEI_COMPUTES = (400, 401, 403, 404, 413, 422, 424, 429, 500, 503, 504)
_READS = (401, 403, 500)
_CHANGES = (400, 401, 403, 404, 413, 500)
_ERRORS = {
    "openai": error_formats.OpenAIError,
    "ollama": error_formats.OllamaError,
    "tei": error_formats.TeiError,
    "cohere": error_formats.CohereError,
}
_WHY = {
    400: "Invalid request; the message names the field and the item.",
    401: "The API key is missing or unknown.",
    403: "This Host, web page or machine has no access.",
    404: "Unknown model.",
    413: "The body is too large.",
    422: "Invalid request; the message names the field and the item.",
    424: "The model cannot do this task.",
    429: "Too many texts are waiting. No text of this request was queued; try again after Retry-After.",
    500: "The server failed; its log has the reason.",
    503: "The model is loading, restarting or failed; try again after Retry-After.",
    504: "The request timed out.",
}


@dataclass(frozen=True)
class Operation:
    """What a route takes and returns.

    body, answer: types of the JSON, several in a tuple; None for no body, and for a response that is not JSON, which has one
    of the types in `media`. example: a valid body, for readers and tests. fails: types of error responses, by status, where
    they are not those of the dialect.
    """

    tag: str
    answer: Any
    body: Any = None
    errors: tuple[int, ...] = _READS
    example: dict[str, Any] | None = None
    media: tuple[str, ...] = (responses.JSON_TYPE,)
    cached: bool = False
    """The cache is used: one header controls it, another one tells whether it answered."""
    fails: dict[int, Any] = field(default_factory=dict)
    body_required: bool = True


_OPENAI = "OpenAI"
_RERANK = "Rerank (Jina, Cohere, vLLM, SGLang, infinity, Voyage)"
_OLLAMA = "Ollama"
_LM_STUDIO = "LM Studio"
_TEI = "text-embeddings-inference"
_COHERE = "Cohere"
_SERVER = "This server"
_ADMIN = "Administration"

_QUERY: dict[str, Any] = {"query": "Is it raining?", "documents": ["The rain falls.", "A dry desert."]}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/embeddings"): Operation(
        _OPENAI, EmbeddingsAnswer, embeddings_body.EmbeddingsBody, _COMPUTES, {"input": "The rain falls."}, cached=True
    ),
    ("GET", "/v1/models"): Operation(_OPENAI, ModelsAnswer),
    ("GET", "/v1/models/{name}"): Operation(_OPENAI, ListedModel, errors=(401, 403, 404, 500)),
    ("POST", "/v1/tokenize"): Operation(
        _OPENAI,
        tokenize.TokenizeAnswer,
        tokenize.TokenizeBody,
        _COMPUTES,
        {"input": ["The rain falls."], "ids": True},
    ),
    **{
        ("POST", path): Operation(
            _RERANK,
            (rerank_answer.RerankAnswer, list[tei_scores.TeiRank]),
            (rerank.RerankBody, tei_scores.TeiRerankBody),
            _TEI_COMPUTES,
            example,
            cached=True,
            fails=dict.fromkeys(_TEI_COMPUTES, (error, error_formats.TeiError)),
        )
        for path, example, error in (
            ("/v1/rerank", {**_QUERY, "top_n": 1}, error_formats.OpenAIError),
            ("/v2/rerank", _QUERY, error_formats.CohereError),
            ("/rerank", {"query": _QUERY["query"], "texts": _QUERY["documents"]}, error_formats.OpenAIError),
        )
    },
    **{
        ("POST", path): Operation(
            _RERANK,
            (score.ScoreAnswer, score.SglangScoreAnswer),
            score.ScoreBody,
            _COMPUTES,
            {"text_1": "Is it raining?", "text_2": ["The rain falls.", "A dry desert."]},
            cached=True,
        )
        for path in ("/score", "/v1/score")
    },
    ("POST", "/api/embed"): Operation(
        _OLLAMA,
        ollama_embed.OllamaEmbedAnswer,
        ollama_embed.OllamaEmbedBody,
        _COMPUTES,
        {"input": ["The rain falls.", "A dry desert."]},
        cached=True,
    ),
    ("POST", "/api/embeddings"): Operation(
        _OLLAMA,
        ollama_embed.OllamaEmbeddingsAnswer,
        ollama_embed.OllamaEmbeddingsBody,
        _COMPUTES,
        {"prompt": "The rain falls."},
        cached=True,
    ),
    ("GET", "/api/tags"): Operation(_OLLAMA, ollama_models.OllamaTags),
    ("POST", "/api/show"): Operation(
        _OLLAMA, ollama_models.OllamaShowAnswer, ollama_models.OllamaShowBody, (400, 401, 403, 404, 413, 500)
    ),
    ("GET", "/api/ps"): Operation(_OLLAMA, ollama_models.OllamaProcesses),
    ("GET", "/api/version"): Operation(_OLLAMA, ollama_models.OllamaVersion),
    ("GET", "/api/v0/models"): Operation(_LM_STUDIO, lm_studio.LmStudioModels),
    ("POST", "/api/pull"): Operation(
        _OLLAMA,
        ollama_manage.OllamaProgress,
        ollama_manage.OllamaPullBody,
        _CHANGES,
        media=(responses.JSON_TYPE, ollama_manage.LINES_TYPE),
    ),
    ("DELETE", "/api/delete"): Operation(_OLLAMA, None, ollama_manage.OllamaDeleteBody, _CHANGES, media=("text/plain",)),
    ("POST", "/api/copy"): Operation(_OLLAMA, None, ollama_manage.OllamaCopyBody, _CHANGES, media=("text/plain",)),
    ("POST", "/api/generate"): Operation(
        _OLLAMA, ollama_generate.OllamaGenerateAnswer, ollama_generate.OllamaGenerateBody, _CHANGES
    ),
    ("POST", "/embed"): Operation(
        _TEI, RowsField, tei.TeiEmbedBody, _TEI_COMPUTES, {"inputs": ["The rain falls.", "A dry desert."]}, cached=True
    ),
    ("POST", "/similarity"): Operation(
        _TEI,
        list[float],
        tei.SimilarityBody,
        _TEI_COMPUTES,
        {"inputs": {"source_sentence": "It rains.", "sentences": ["The rain falls.", "A dry desert."]}},
        cached=True,
    ),
    ("POST", "/predict"): Operation(
        _TEI,
        (list[tei_scores.TeiPrediction], list[list[tei_scores.TeiPrediction]]),
        tei_scores.TeiPredictBody,
        _TEI_COMPUTES,
        {"inputs": ["Is it raining?", "The rain falls."]},
        cached=True,
    ),
    **{
        ("POST", path): Operation(_TEI, Anything, tei.TeiTextsBody, _TEI_COMPUTES, {"inputs": "The rain falls."})
        for path in ("/embed_all", "/embed_sparse")
    },
    ("POST", "/tokenize"): Operation(
        _TEI,
        (list[list[tei_tokens.TeiToken]], tokenize_path.VllmTokens, tokenize_path.LlamaTokens),
        (tei_tokens.TeiTokenizeBody, tokenize_path.VllmTokenizeBody, tokenize_path.LlamaTokenizeBody),
        _TEI_COMPUTES,
        {"inputs": "The rain falls."},
        fails=dict.fromkeys(_TEI_COMPUTES, (error_formats.OpenAIError, error_formats.TeiError)),
    ),
    ("POST", "/decode"): Operation(_TEI, list[str], tei_tokens.TeiDecodeBody, _TEI_COMPUTES, {"ids": [0, 1]}),
    ("POST", "/detokenize"): Operation(
        _TEI,
        tokenize_path.DetokenizeAnswer,
        tokenize_path.DetokenizeBody,
        _COMPUTES,
        {"tokens": [0, 1]},
        fails=dict.fromkeys(_COMPUTES, error_formats.OpenAIError),
    ),
    ("POST", "/"): Operation(
        _TEI,
        (RowsField, list[float], list[tei_scores.TeiRank]),
        (tei.TeiEmbedBody, tei.SimilarityBody, tei_scores.TeiRerankBody),
        _TEI_COMPUTES,
        {"inputs": "The rain falls."},
        cached=True,
    ),
    ("POST", "/invocations"): Operation(
        _TEI,
        (RowsField, list[float], list[tei_scores.TeiRank], EmbeddingsAnswer, rerank_answer.RerankAnswer),
        (
            tei.TeiEmbedBody,
            tei.SimilarityBody,
            tei_scores.TeiRerankBody,
            embeddings_body.EmbeddingsBody,
            rerank.RerankBody,
        ),
        _TEI_COMPUTES,
        {"input": "The rain falls."},
        cached=True,
        fails=dict.fromkeys(_TEI_COMPUTES, (error_formats.OpenAIError, error_formats.TeiError)),
    ),
    ("GET", "/info"): Operation(_TEI, tei_info.TeiInfo, errors=(401, 403, 500, 503)),
    ("POST", "/v2/embed"): Operation(
        _COHERE,
        cohere.CohereEmbedAnswer,
        cohere.CohereEmbedBody,
        _COMPUTES,
        {"texts": ["The rain falls."], "input_type": "search_document", "embedding_types": ["float", "ubinary"]},
        cached=True,
    ),
    ("POST", "/v1/embed"): Operation(
        _COHERE,
        (cohere.CohereFloatsAnswer, cohere.CohereEmbedAnswer),
        cohere.CohereEmbedBody,
        _COMPUTES,
        {"texts": ["The rain falls."]},
        cached=True,
    ),
    ("GET", "/v1"): Operation(_SERVER, base_url.BaseUrlAnswer),
    ("GET", "/health"): Operation(_SERVER, Health, errors=(403, 500), fails={503: Health}),
    ("GET", "/readyz"): Operation(_SERVER, Health, errors=(403, 500), fails={503: Health}),
    ("GET", "/livez"): Operation(_SERVER, LiveAnswer, errors=(403, 500)),
    ("GET", "/metrics"): Operation(_SERVER, None, media=("text/plain",)),
    ("GET", "/"): Operation(_SERVER, None, media=("text/plain", "text/html"), errors=(403, 500)),
    ("GET", "/dashboard.css"): Operation(_SERVER, None, media=("text/css",), errors=(403, 500)),
    ("GET", "/dashboard.js"): Operation(_SERVER, None, media=("text/javascript",), errors=(403, 500)),
    ("GET", "/v1/status"): Operation(_SERVER, DaemonStatus),
    ("GET", "/openapi.json"): Operation(_SERVER, Anything),
    ("GET", "/docs"): Operation(_SERVER, None, media=("text/html",)),
    ("GET", "/v1/admin"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/pause"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/resume"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/shutdown"): Operation(_ADMIN, AdminStatus),
    ("POST", "/v1/admin/cache/clear"): Operation(
        _ADMIN, admin.ClearAnswer, admin.ClearBody, (400, 401, 403, 404, 413, 500), body_required=False
    ),
}
"""All routes of the server, by method and path."""


class OpenApi:
    """The document of one application, made on first use."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None

    def of(self, app: web.Application) -> dict[str, Any]:
        """Return the document."""
        if self._document is None:
            self._document = make_document(app)
        return self._document


OPENAPI = web.AppKey("openapi", OpenApi)


@routes.get("/openapi.json")
async def openapi_json(request: web.Request) -> web.Response:
    """Return this document."""
    return responses.json_response(request.app[OPENAPI].of(request.app))


def served(app: web.Application) -> dict[tuple[str, str], web.AbstractRoute]:
    """Return all routes by method and path, without HEAD, which every GET has, and OPTIONS, which is for browsers."""
    found: dict[tuple[str, str], web.AbstractRoute] = {}
    for route in app.router.routes():
        if route.method in (hdrs.METH_HEAD, hdrs.METH_OPTIONS) or route.resource is None:
            continue
        found[route.method, route.resource.canonical] = route
    return found


def make_document(app: web.Application) -> dict[str, Any]:
    """Return the document of an application."""
    described = {place: route for place, route in served(app).items() if place in OPERATIONS}
    types = _types([OPERATIONS[place] for place in described])
    found, components = msgspec.json.schema_components(types, ref_template=_REF)
    _require_sent_fields(components)
    schemas = dict(zip(types, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), route in described.items():
        paths.setdefault(path, {})[method.lower()] = _describe(method, path, route, OPERATIONS[method, path], schemas)
    tags = dict.fromkeys(OPERATIONS[place].tag for place in described)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeembed",
            "version": __version__,
            "summary": "A private embedding server.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in tags],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed only if the server has API keys.",
                }
            },
        },
    }


def _require_sent_fields(components: dict[str, Any]) -> None:
    """Mark the fields that the daemon always sends: the defaults in `common.status` are for readers of other versions."""
    for name, kind in inspect.getmembers(common_status, inspect.isclass):
        if name in components and issubclass(kind, msgspec.Struct):
            fields = msgspec.structs.fields(kind)
            components[name]["required"] = [field.encode_name for field in fields if field.default is not UNSET]
            for schema in components[name]["properties"].values():
                schema.pop("default", None)


def _types(operations: Sequence[Operation]) -> list[Any]:
    types: dict[Any, None] = dict.fromkeys(_ERRORS.values())
    for operation in operations:
        for kind in (operation.body, operation.answer, *operation.fails.values()):
            types |= dict.fromkeys(kind if isinstance(kind, tuple) else () if kind is None else (kind,))
    return list(types)


def _schema(kind: Any, schemas: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(kind, tuple):
        return {"anyOf": [schemas[one] for one in kind]}
    return dict(schemas[kind])


def _describe(
    method: str, path: str, route: web.AbstractRoute, operation: Operation, schemas: dict[Any, Any]
) -> dict[str, Any]:
    summary, _, more = inspect.cleandoc(route.handler.__doc__ or path).partition("\n\n")
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}{path.replace('{', '').replace('}', '').replace('/', '_')}",
        "tags": [operation.tag],
        "summary": " ".join(summary.split()),
    }
    if more:
        described["description"] = " ".join(more.split())
    if parameters := _parameters(path, operation):
        described["parameters"] = parameters
    if operation.body is not None:
        content: dict[str, Any] = {"schema": _schema(operation.body, schemas)}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": operation.body_required, "content": {responses.JSON_TYPE: content}}
    described["responses"] = _responses(method, path, operation, schemas)
    return described


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{name}" in path:
        found.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    if operation.cached:
        found.append(
            {
                "name": str(CACHE_HEADER),
                "in": "header",
                "required": False,
                "description": "Use of the cache: off neither reads nor stores, no-store only reads, keep always stores.",
                "schema": {"type": "string", "enum": ["on", "off", "no-store", "keep"]},
            }
        )
    return found


def _responses(method: str, path: str, operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    schema = {"type": "string"} if operation.answer is None else _schema(operation.answer, schemas)
    done: dict[str, Any] = {"description": "Success.", "content": {media: {"schema": schema} for media in operation.media}}
    if operation.cached:
        done["headers"] = {
            str(CACHE_HEADER): {
                "description": "Whether the cache had all, some or none of the texts.",
                "schema": {"type": "string", "enum": ["hit", "partial", "miss"]},
            },
            str(TRUNCATED_HEADER): {
                "description": "The number of texts that were cut; missing if none were.",
                "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
            },
        }
    found = {"200": done}
    error = _ERRORS[error_formats.dialect_of(method, path)]
    for status in sorted({*operation.errors, *operation.fails}):
        found[str(status)] = {
            "description": _WHY.get(status) or HTTPStatus(status).phrase,
            "content": {responses.JSON_TYPE: {"schema": _schema(operation.fails.get(status, error), schemas)}},
        }
    return found
