"""GET /openapi.json: the OpenAPI 3.1 document, made from the routes, their docstrings and the types of their bodies.

`operations` has the types of each route; everything else is taken from the application. Tests check that real requests and
responses match the document.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from http import HTTPStatus
from types import ModuleType
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET

from edgeembed import __version__
from edgeembed.common import admin_status
from edgeembed.common import status as common_status
from edgeembed.server import error_formats, responses
from edgeembed.server.body import CACHE_HEADER
from edgeembed.server.fields import TRUNCATED_HEADER
from edgeembed.server.ops.operations import OPERATIONS, Operation

routes = web.RouteTableDef()

_REF = "#/components/schemas/{name}"
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
    409: "The daemon's state or its settings do not allow it; the message says what to change first.",
    413: "The body is too large.",
    422: "Invalid request; the message names the field and the item.",
    424: "The model cannot do this task.",
    429: "Too many texts are waiting. No text of this request was queued; try again after Retry-After.",
    500: "The server failed; its log has the reason.",
    503: "The model is loading, restarting or failed; try again after Retry-After.",
    504: "The request timed out.",
}


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
    """Mark the fields that the daemon always sends: the defaults in these modules are for readers of other versions."""
    for name, kind in (*_classes(admin_status), *_classes(common_status)):
        if name in components and issubclass(kind, msgspec.Struct):
            fields = msgspec.structs.fields(kind)
            components[name]["required"] = [field.encode_name for field in fields if field.default is not UNSET]
            for schema in components[name]["properties"].values():
                schema.pop("default", None)


def _classes(module: ModuleType) -> list[tuple[str, type]]:
    return inspect.getmembers(module, inspect.isclass)


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


_BYTES = {"type": "string", "contentMediaType": responses.BYTES_TYPE}
"""The schema of bytes, as JSON Schema 2020-12 has it."""


def _responses(method: str, path: str, operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    schema = {"type": "string"} if operation.answer is None else _schema(operation.answer, schemas)
    content = {media: {"schema": _BYTES if media == responses.BYTES_TYPE else schema} for media in operation.media}
    done: dict[str, Any] = {"description": "Success.", "content": content}
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
    found = {str(operation.status): done}
    error = _ERRORS[error_formats.dialect_of(method, path)]
    for status in sorted({*operation.errors, *operation.fails}):
        found[str(status)] = {
            "description": _WHY.get(status) or HTTPStatus(status).phrase,
            "content": {responses.JSON_TYPE: {"schema": _schema(operation.fails.get(status, error), schemas)}},
        }
    return found
