"""JSON responses and error responses."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np
import orjson
from aiohttp import hdrs, web

from edgeembed.common.retry_after import format_retry_after
from edgeembed.errors import EdgeEmbedError
from edgeembed.server.error_formats import ErrorFormat, Problem, openai

JSON_TYPE = "application/json"
_MOST_MESSAGE = 2000
"""Characters of an error's message."""


def json_response(data: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response; numpy rows become lists of numbers."""
    body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON_TYPE)


def json_bytes(body: bytes, headers: dict[str, str]) -> web.Response:
    """Return a response with JSON that is already encoded."""
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: JSON_TYPE, **headers})


def struct_response(answer: msgspec.Struct, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response with a struct, whose type the OpenAPI document describes."""
    return json_response(plain(answer), status=status, headers=headers)


def plain(answer: Any) -> Any:
    """Return structs as dicts; numpy rows inside stay as they are."""
    return msgspec.to_builtins(answer, builtin_types=(np.ndarray,))


def error_response(error: EdgeEmbedError, error_format: ErrorFormat = openai) -> web.Response:
    """Return the response for an error of `edgeembed.errors`."""
    headers = {"Retry-After": format_retry_after(error.retry_after)} if error.retry_after is not None else None
    return error_object(
        error.status, error.message, error_format, type_=error.type, code=error.code, param=error.param, headers=headers
    )


def error_object(
    status: int,
    message: str,
    error_format: ErrorFormat = openai,
    *,
    type_: str | None = None,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Return an error response in a dialect's format."""
    if len(message) > _MOST_MESSAGE:  # it quotes something long of the request
        message = message[:_MOST_MESSAGE] + "…"
    kind = type_ or ("invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error")
    status, body = error_format(Problem(status, message, kind, code, param))
    return json_response(plain(body), status=status, headers=headers)
