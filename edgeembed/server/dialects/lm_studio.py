"""LM Studio's list of models: GET /api/v0/models. Its other routes are OpenAI's; see `paths` for `/api/v0/embeddings`.

Reference: LM Studio's documentation, "REST API v0".
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from aiohttp import web

from edgeembed.engine.interface import Task
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.dialects.model_cards import CARDS
from edgeembed.server.responses import struct_response

routes = web.RouteTableDef()


ModelKind: TypeAlias = Literal["embeddings", "reranker", "classifier"]
_KINDS: dict[Task, ModelKind] = {"embed": "embeddings", "rerank": "reranker", "classify": "classifier"}


class LmStudioModel(msgspec.Struct):
    """A name that a request may use. `max_context_length`: the longest text in tokens, 0 if the file does not say it."""

    id: str
    type: ModelKind
    arch: str
    quantization: str
    state: Literal["loaded", "not-loaded"]
    max_context_length: int
    object: Literal["model"] = "model"
    publisher: str = "edgeembed"
    compatibility_type: Literal["gguf"] = "gguf"


class LmStudioModels(msgspec.Struct):
    """All names that a request may use. Clients show those whose type is `embeddings`."""

    data: list[LmStudioModel]
    object: Literal["list"] = "list"


@routes.get("/api/v0/models")
async def models(request: web.Request) -> web.Response:
    """List every name that a request may use, for clients of LM Studio."""
    service, cards = request.app[SERVICE], request.app[CARDS]
    await service.registry.refresh()
    listed = []
    for listing in service.registry.listings():
        model = listing.target.model
        card, slot = await cards.of(model), service.pool.slot_of(model)
        info = slot.engine.info if slot and slot.engine else None
        listed.append(
            LmStudioModel(
                id=listing.name,
                type=_KINDS[model.task],
                arch=card.architecture or "",
                quantization=model.type,
                state="loaded" if slot is not None and slot.state == "ready" else "not-loaded",
                max_context_length=info.context_tokens if info else card.context_tokens or 0,
            )
        )
    return struct_response(LmStudioModels(listed))
