"""OpenAI's dialect: POST /v1/embeddings, GET /v1/models. `embeddings_body` and `embeddings_answer` have the details.

Reference: the OpenAI API documentation, "Create embeddings" and "List models".
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from edgeembed.common.status import ListedModel
from edgeembed.inference.aside import DIGITS
from edgeembed.inference.requests import EmbedResult
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.registry import ModelListing
from edgeembed.server.app_keys import BODY_DIGEST, SERVICE
from edgeembed.server.body import BodyType, read_body
from edgeembed.server.dialects.embeddings_answer import bytes_response, with_cuts, write_json
from edgeembed.server.dialects.embeddings_body import (
    EmbeddingsBody,
    embed_request,
    is_plain,
    number_format,
    plain_request,
)
from edgeembed.server.dialects.outputs import check_encoding, output_form, outputs_json, words_of
from edgeembed.server.dialects.token_rows import is_large, json_in_parts
from edgeembed.server.fields import answer_headers
from edgeembed.server.proxy import FORWARD
from edgeembed.server.quick_answers import quick_json
from edgeembed.server.responses import json_response, plain, struct_response

routes = web.RouteTableDef()

_BODY = BodyType(EmbeddingsBody)
_TOKEN_HINT = (
    ". Clients such as LangChain send ids of an OpenAI model; in LangChain, set "
    'OpenAIEmbeddings(check_embedding_ctx_length=False). To send ids of this model, set "token_ids": "model"'
)


@routes.post("/v1/embeddings")
async def embeddings(request: web.Request) -> web.StreamResponse:
    """Embed a string or a list of strings."""
    return await _embed(request)


@routes.post("/v1/multi-vector")
async def multi_vectors(request: web.Request) -> web.StreamResponse:
    """Return a vector for each token of each text, as Jina does for late-interaction models."""
    return await _embed(request, jina=True)


async def _embed(request: web.Request, *, jina: bool = False) -> web.StreamResponse:
    """Answer a request. jina: for vectors of tokens, and not for dense ones."""
    body = await read_body(request, _BODY)
    service = request.app[SERVICE]
    if is_plain(body) and not jina:
        asked, numbers = plain_request(request, body, _TOKEN_HINT)
        form = None
    else:
        numbers = number_format(body)
        asked = embed_request(request, body, _TOKEN_HINT)
        form = await output_form(body, service, asked.input_type, jina=jina)
    if form is not None:
        check_encoding(numbers)
        asked = msgspec.structs.replace(asked, outputs=form.outputs)
    result = await service.embed(asked)
    headers = answer_headers(result, result.texts)
    if form is not None:
        pieces = outputs_json(result, numbers, form, await words_of(service, result, form))
        if is_large(result.numbers):
            return json_in_parts(service.aside, result, pieces, headers)
        return _stored(request, b"".join(pieces), result, headers)
    if numbers.encoding in ("bytes", "bytes_only"):
        return await bytes_response(service.aside, result, numbers, headers)
    size = result.numbers * (DIGITS if numbers.encoding == "float" else 1)
    written = await service.aside.run(size, write_json, result, numbers)
    return _stored(request, with_cuts(written, result), result, headers)


def _stored(request: web.Request, written: bytes, result: EmbedResult, headers: dict[str, str]) -> web.StreamResponse:
    """Return an answer, and store it for the fast path, which does not store those with cut texts: they need a header."""
    if result.memory_label is not None and (digest := request.get(BODY_DIGEST)):
        request.app[SERVICE].store_response(digest, written, result)
    return quick_json(request, written, headers)


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """List every name that a request may use: models, with their types, with prompts as a suffix, and aliases."""
    service = request.app[SERVICE]
    await service.registry.refresh()
    data: list[dict[str, Any]] = [plain(_listed(service, listing)) for listing in service.registry.listings()]
    if forward := request.app.get(FORWARD):
        data += await forward.models(model["id"] for model in data)
    return json_response({"object": "list", "data": data})


@routes.get("/v1/models/{name:.+}")
async def model(request: web.Request) -> web.StreamResponse:
    """Describe one model."""
    service = request.app[SERVICE]
    name = request.match_info["name"]
    target = await service.registry.look_up(name)
    if target is None and (forward := request.app.get(FORWARD)):
        return await forward.handle(request)
    if target is None:
        raise service.registry.unknown(name, "embed")
    return struct_response(_listed(service, ModelListing(name, target)))


def _listed(service: EmbeddingService, listing: ModelListing) -> ListedModel:
    model = listing.target.model
    slot = service.pool.slot_of(model)
    info = slot.engine.info if slot and slot.engine else None
    dimensions = (info.dimensions if info else model.dimensions) if model.task == "embed" else None
    return ListedModel(
        id=listing.name,
        created=model.created,
        task=model.task,
        model_type="embedding" if model.task == "embed" else model.task,
        type=model.type,
        loaded=slot is not None and slot.state == "ready",
        root=UNSET if listing.name.lower() in (model.name.lower(), model.spec.lower()) else model.spec,
        input_type=listing.target.input_type or UNSET,
        dimensions=dimensions or UNSET,
        outputs=list(model.all_outputs) or UNSET,
        labels=list(model.classes.labels) if model.classes else UNSET,
        context_tokens=info.context_tokens if info else UNSET,
    )
