"""POST /rerank, which two dialects share: a body with `texts` is text-embeddings-inference's, all others are Jina's."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET

from edgeembed.server.body import peek_body
from edgeembed.server.dialects import rerank as jina
from edgeembed.server.dialects import tei_scores
from edgeembed.server.error_formats import DIALECT

routes = web.RouteTableDef()


@routes.post("/rerank")
async def rerank(request: web.Request) -> web.Response:
    """Score documents against a query, for clients of Jina or, with `texts`, of text-embeddings-inference."""
    fields = await peek_body(request)
    if fields.texts is not UNSET and fields.documents is UNSET:
        request[DIALECT] = "tei"
        return await tei_scores.rerank(request)
    return await jina.rerank(request, "1")
