"""The paths of reranking, which several dialects share: a body with `texts` is text-embeddings-inference's."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET

from edgeembed.server.body import peek_body
from edgeembed.server.dialects import rerank as jina
from edgeembed.server.dialects import tei_scores
from edgeembed.server.dialects.rerank_answer import ApiVersion
from edgeembed.server.error_formats import DIALECT

routes = web.RouteTableDef()


@routes.post("/v1/rerank")
async def rerank_v1(request: web.Request) -> web.Response:
    """Score documents against a query, best first; with `texts`, as text-embeddings-inference does."""
    return await _rerank(request, "1")


@routes.post("/v2/rerank")
async def rerank_v2(request: web.Request) -> web.Response:
    """Score documents against a query, best first, for clients of Cohere."""
    return await _rerank(request, "2")


@routes.post("/rerank")
async def rerank(request: web.Request) -> web.Response:
    """Score documents against a query, best first; with `texts`, as text-embeddings-inference does."""
    return await _rerank(request, "1")


async def _rerank(request: web.Request, version: ApiVersion) -> web.Response:
    fields = await peek_body(request)
    if fields.texts is not UNSET and fields.documents is UNSET:
        request[DIALECT] = "tei"
        return await tei_scores.rerank(request)
    return await jina.rerank(request, version)
