"""What happens around every handler: request ids, counts, the log line, and errors in the dialect's format."""

from __future__ import annotations

import itertools
import re
import secrets
import time

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import istr

from edgeembed import __version__
from edgeembed.common.logs import begin_request
from edgeembed.common.spans import HEADER, RequestSpan, valid
from edgeembed.errors import BodyTimeoutError, EdgeEmbedError, RequestTooLargeError, UnsupportedMediaError
from edgeembed.server import content_codings
from edgeembed.server.aiohttp_internals import RawResponse
from edgeembed.server.app_keys import ACCESS, ACCESS_LOG, TRACING
from edgeembed.server.auth import let_page_read
from edgeembed.server.body import CACHE_HEADER
from edgeembed.server.error_formats import ERROR_FORMATS, error_format_of
from edgeembed.server.ops.http_counts import CLIENT_GONE
from edgeembed.server.ops.metrics import METRICS
from edgeembed.server.paths import SPELLINGS, origin_of
from edgeembed.server.reading import release
from edgeembed.server.request_log import log_answer, log_bug, method_of, name_of, route_of
from edgeembed.server.responses import error_object, error_response

REQUEST_ID = istr("X-Request-Id")
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_RUN = secrets.token_hex(11)
_numbers = itertools.count(1)
"""Request ids count up within a run, and begin with the run's own part; a UUID would take as long as a cache lookup."""
SERVER = f"edgeembed/{__version__}"
_TRACEPARENT = istr(HEADER)
_ID = web.RequestKey("id", str)


def request_id_of(request: web.BaseRequest) -> str:
    """Return the client's own id if it sent a valid one, else a new one."""
    given = request.headers.get(REQUEST_ID)
    return given if given and _SANE_ID.fullmatch(given) else f"{_RUN}{next(_numbers):010x}"


def id_of(request: web.BaseRequest) -> str:
    """Return the id under which a request is logged, or a new one if it did not pass `request_ids`."""
    return request.get(_ID) or request_id_of(request)


def common_headers(request_id: str) -> dict[str, str]:
    """Return the headers of every response."""
    return {REQUEST_ID: request_id, hdrs.SERVER: SERVER}


async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every response, streamed or not, just before its head is sent: an `on_response_prepare` signal."""
    for name, value in common_headers(id_of(request)).items():
        response.headers[name] = value
    if hdrs.ORIGIN in request.headers:
        let_page_read(request.app[ACCESS], request, response)


@web.middleware
async def request_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request, and log it; its log lines and its response have its id."""
    request_id = request[_ID] = request_id_of(request)
    given = valid(request.headers.get(_TRACEPARENT))
    app = request.app
    tracing = app.get(TRACING)
    span = None if tracing is None else tracing.begin(method_of(request), route_of(request), given)
    scope = begin_request(request_id, given, span)
    counts = app[METRICS].http
    counts.in_flight += 1
    status = CLIENT_GONE
    response: web.StreamResponse | None = None
    began = time.perf_counter()
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as answer:  # such as a redirect
        status = answer.status
        raise
    finally:
        took = time.perf_counter() - began
        counts.in_flight -= 1
        counts.count(request, status, took)
        log_answer(request, status, took)
        if (access_log := app.get(ACCESS_LOG)) is not None:
            access_log.write(request, name_of(request), status, took, _size_of(response), request_id)
        if span is not None:
            _end_span(span, status, response)
        scope.active = False
        release(request)


def _size_of(response: web.StreamResponse | None) -> int | None:
    """Return the length of a response's body if it is known before it is sent."""
    if isinstance(response, RawResponse):
        return response.body_bytes
    return None if response is None else response.content_length


def _end_span(span: RequestSpan, status: int, response: web.StreamResponse | None) -> None:
    cache = None if response is None else response.headers.get(CACHE_HEADER)
    span.end(status, {} if cache is None else {"edgeembed.cache": cache})


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into the error object of the request's dialect. No other place does this."""
    try:
        return await handler(request)
    except EdgeEmbedError as error:
        response = error_response(error, error_format_of(request))
        if isinstance(error, BodyTimeoutError):
            response.force_close()  # the rest of the body would be read as the next request
        if isinstance(error, UnsupportedMediaError):
            response.headers[hdrs.ACCEPT_ENCODING] = content_codings.TAKEN
        return response
    except web.HTTPRequestEntityTooLarge:
        limit = request.client_max_size / 2**20
        return error_response(
            RequestTooLargeError(f"the request body is larger than {limit:g} MiB; send fewer texts at a time"),
            error_format_of(request),
        )
    except web.RequestPayloadError as error:  # such as a chunk without a size
        message = f"the request body cannot be read: {' '.join(str(error).split())}"
        response = error_object(400, message, error_format_of(request))
        response.force_close()  # aiohttp closes the connection, so tell clients that pool it
        return response
    except web.HTTPNotFound:
        dialect, advice = request.app[SPELLINGS].advice(request.method, request.path, origin_of(request))
        message = f"there is nothing at {request.method} {request.path}; {advice}"
        return error_object(404, message, ERROR_FORMATS[dialect], code="unknown_url")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return error_object(
            405,
            f"{request.path} takes {allowed}, not {request.method}",
            error_format_of(request),
            code="method_not_allowed",
            headers={"Allow": allowed},
        )
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_object(error.status, error.reason, error_format_of(request))
    except RecursionError:  # json, msgspec and orjson raise it, each at another depth
        message = "the body's lists or objects are nested too deeply"
        return error_object(400, message, error_format_of(request))
    except Exception:
        log_bug(request)
        message = "internal error; see the daemon's log"
        return error_object(500, message, error_format_of(request), code="internal_error")
