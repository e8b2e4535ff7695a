"""What happens around every handler: request ids, and errors as OpenAI's error object."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import web

from edgeembed import __version__
from edgeembed.errors import EdgeEmbedError, RequestTooLargeError
from edgeembed.server.answers import error_object, error_response

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = "X-Request-Id"
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_SERVER = f"edgeembed/{__version__}"


@web.middleware
async def request_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every answer a request id, the client's own where it sent one, and log a line without any text."""
    given = request.headers.get(REQUEST_ID, "")
    request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
    began = time.perf_counter()
    response = await handler(request)
    response.headers[REQUEST_ID] = request_id
    response.headers["Server"] = _SERVER
    took = 1000 * (time.perf_counter() - began)
    level = logging.WARNING if response.status >= 500 and request.path != "/health" else logging.DEBUG
    log.log(level, "%s %s %d %.1f ms %s", request.method, request.path, response.status, took, request_id)
    return response


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into OpenAI's error object; this is the one place where that happens."""
    try:
        return await handler(request)
    except EdgeEmbedError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge:
        limit = request.app._client_max_size / 2**20
        return error_response(
            RequestTooLargeError(f"the request body is larger than {limit:g} MiB; send fewer texts at a time")
        )
    except web.RequestPayloadError as error:  # such as a body that is not the gzip that its header promises
        return error_object(400, f"the request body cannot be read: {' '.join(str(error).split())}")
    except web.HTTPNotFound:
        return error_object(404, f"there is nothing at {request.method} {request.path}", code="unknown_url")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return error_object(
            405,
            f"{request.path} takes {allowed}, not {request.method}",
            code="method_not_allowed",
            headers={"Allow": allowed},
        )
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_object(error.status, error.reason)
    except Exception:
        # The client learns that it was not its fault; the log has the rest.
        log.exception("an error that nobody foresaw, in %s %s", request.method, request.path)
        return error_object(500, "an internal error; the daemon's log says more", code="internal_error")
