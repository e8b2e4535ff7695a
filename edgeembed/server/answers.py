"""JSON answers and OpenAI's error object."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from edgeembed.errors import EdgeEmbedError


def json_response(data: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON; numpy rows become lists of numbers."""
    body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error_response(error: EdgeEmbedError) -> web.Response:
    """Answer with an error of ours."""
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if error.retry_after is not None else None
    return error_object(error.status, error.message, type_=error.type, code=error.code, param=error.param, headers=headers)


def error_object(
    status: int,
    message: str,
    *,
    type_: str | None = None,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Answer with OpenAI's error object: {"error": {"message", "type", "param", "code"}}."""
    kind = type_ or ("invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error")
    return json_response(
        {"error": {"message": message, "type": kind, "param": param, "code": code}}, status=status, headers=headers
    )
