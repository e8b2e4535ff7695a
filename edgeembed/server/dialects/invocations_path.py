"""POST /invocations: the one route of a container in Amazon SageMaker, as vLLM and text-embeddings-inference serve it."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET

from edgeembed.server.body import peek_body
from edgeembed.server.dialects import openai, rerank, tei
from edgeembed.server.error_formats import DIALECT

routes = web.RouteTableDef()


@routes.post("/invocations")
async def invocations(request: web.Request) -> web.StreamResponse:
    """Rerank `documents`, embed `input` or `messages`; any other body is answered as at POST /."""
    fields = await peek_body(request)
    if fields.documents is not UNSET:
        request[DIALECT] = "openai"
        return await rerank.rerank(request, "1")
    if fields.input is not UNSET or fields.messages is not UNSET:
        request[DIALECT] = "openai"
        return await openai.embeddings(request)
    return await tei.root(request)
