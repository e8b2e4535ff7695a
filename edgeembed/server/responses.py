"""JSON responses and error responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from edgeembed.common.retry_after import format_retry_after
from edgeembed.errors import EdgeEmbedError
from edgeembed.server.error_formats import ErrorFormat, Problem, openai

JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"
LARGE_BYTES = 512 * 1024
PART_BYTES = 128 * 1024
READ_SECONDS = 60.0
"""How long a client may take to read a part of a large response."""
_MOST_MESSAGE = 2000
"""Characters of an error's message."""


def json_response(data: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response; a numpy array becomes a list of numbers, or of lists."""
    body = array_json(data) if isinstance(data, np.ndarray) else orjson.dumps(data)
    return json_bytes(body, headers or {}, status=status)


def json_bytes(body: bytes, headers: dict[str, str], *, status: int = 200) -> web.Response:
    """Return a response with JSON that is already encoded."""
    return raw_response(body, {hdrs.CONTENT_TYPE: JSON_TYPE, **headers}, status=status)


def raw_response(body: bytes, headers: dict[str, str], *, status: int = 200) -> web.Response:
    """Return a response with bytes, whose type is in the headers."""
    if len(body) > LARGE_BYTES:
        return LargeResponse(body, headers, status=status)
    return web.Response(body=body, headers=headers, status=status)


class PartedResponse(web.Response):
    """A response that is sent in parts, each once the client has read most of the one before.

    The connection is aborted when it reads nothing for `READ_SECONDS`.
    """

    def __init__(self, parts: AsyncIterator[bytes | memoryview], headers: dict[str, str], *, status: int = 200) -> None:
        """parts: of the body. headers: with the body's length, if it is known before it is written."""
        super().__init__(status=status, headers=headers)
        self._parts = parts
        self._request: web.BaseRequest | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head."""
        self._request = request
        if hdrs.CONTENT_LENGTH not in self.headers:
            if request.version >= HttpVersion11:
                self.enable_chunked_encoding()
            else:
                body = b"".join([part async for part in self._parts])
                self.headers[hdrs.CONTENT_LENGTH], self._parts = str(len(body)), _slices_of(body)
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body. Raises ConnectionResetError when the client does not read it."""
        assert self._request is not None, "prepare() comes first"
        try:
            if self._request.method != hdrs.METH_HEAD:
                async for part in self._parts:
                    await self._write_part(part, self._request.transport)
        finally:
            if isinstance(self._parts, AsyncGenerator):  # what makes the parts ends with a client that is gone
                await self._parts.aclose()
        await web.StreamResponse.write_eof(self, data)

    async def _write_part(self, part: bytes | memoryview, transport: asyncio.Transport | None) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                await self.write(part)
        except TimeoutError:
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("the client does not read the response") from None


class LargeResponse(PartedResponse):
    """A response whose body is sent in parts of `PART_BYTES`."""

    def __init__(self, body: bytes, headers: dict[str, str], *, status: int = 200) -> None:
        super().__init__(_slices_of(body), {**headers, hdrs.CONTENT_LENGTH: str(len(body))}, status=status)


async def _slices_of(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for begin in range(0, len(view), PART_BYTES):
        yield view[begin : begin + PART_BYTES]


def struct_response(answer: msgspec.Struct, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response with a struct, whose type the OpenAPI document describes."""
    return json_response(plain(answer), status=status, headers=headers)


def plain(answer: Any) -> Any:
    """Return structs as dicts, with encoded JSON for numpy arrays inside."""
    return msgspec.to_builtins(
        answer, builtin_types=(orjson.Fragment,), enc_hook=lambda array: orjson.Fragment(array_json(array))
    )


def array_json(array: npt.NDArray[Any]) -> bytes:
    """Return a numpy array of one or two dimensions as JSON. Row by row: the encoder keeps all other threads waiting."""
    if array.ndim == 1:
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"[%b]" % b",".join([orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in array])


def parted_list(parts: Iterable[list[Any]]) -> bytes:
    """Return a list as JSON. parts: of it, none empty. The encoder keeps all other threads waiting during each of them."""
    return b"[%b]" % b",".join([msgspec.json.encode(part)[1:-1] for part in parts])


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
