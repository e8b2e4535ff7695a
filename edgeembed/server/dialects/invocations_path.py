"""POST /invocations: the one route of a container in Amazon SageMaker, as vLLM and text-embeddings-inference serve it."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET

from edgeembed.server.app_keys import SERVICE
from edgeembed.server.body import name_in, peek_body
from edgeembed.server.dialects import classify, openai, rerank, tei
from edgeembed.server.error_formats import DIALECT

routes = web.RouteTableDef()


@routes.post("/invocations")
async def invocations(request: web.Request) -> web.StreamResponse:
    """Rerank `documents`, embed or classify `input`, as the model does; any other body is answered as at POST /."""
    fields = await peek_body(request)
    if fields.documents is not UNSET:
        request[DIALECT] = "openai"
        return await rerank.rerank(request, "1")
    if fields.input is not UNSET or fields.messages is not UNSET:
        request[DIALECT] = "openai"
        if await request.app[SERVICE].registry.task_of(name_in(fields.model)) == "classify":
            return await classify.classify(request)
        return await openai.embeddings(request)
    return await tei.root(request)
