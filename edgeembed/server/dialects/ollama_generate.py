"""Ollama's /api/generate, by which `ollama stop` unloads a model. No text is generated here.

Reference: `GenerateHandler` in server/routes.go of ollama/ollama.
"""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from edgeembed.errors import RequestError, quoted
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.dialects.keep_alive import keep_alive_seconds
from edgeembed.server.dialects.ollama_fields import KeepAlive, NameField, as_json_time, find_target, in_ollamas_words
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()

_ONLY_VECTORS = (
    "this server computes embeddings only. For chat beside them, set forward to the address of another server: its routes "
    "under /v1 are then answered here"
)


class OllamaGenerateBody(msgspec.Struct):
    """A model to unload: without a prompt, and with a keep_alive of 0. Anything else is an error."""

    model: NameField = None
    prompt: Annotated[str | None, Meta(description="Must be empty.")] = None
    keep_alive: KeepAlive = None


class OllamaGenerateAnswer(msgspec.Struct):
    """A model was unloaded; it generated nothing."""

    model: str
    created_at: str
    response: str
    done: bool
    done_reason: str


_GENERATE = BodyType(OllamaGenerateBody, {})


@routes.post("/api/generate")
async def generate(request: web.Request) -> web.Response:
    """Unload a model, as ollama stop asks. No text is generated here."""
    body = await read_body(request, _GENERATE)
    with in_ollamas_words(body.model):
        target = await find_target(request, body.model)
    if body.prompt or body.keep_alive is None or keep_alive_seconds(body.keep_alive) != 0:
        raise RequestError(f"{quoted(body.model or '')} does not support generate: {_ONLY_VECTORS}", param="model")
    request.app[SERVICE].pool.keep(target.model, 0)
    now = as_json_time(datetime.datetime.now(datetime.UTC))
    return struct_response(OllamaGenerateAnswer(body.model or "", now, "", True, "unload"))
