"""OpenAI's dialect: POST /v1/embeddings, GET /v1/models.

Reference: the OpenAI API documentation, "Create embeddings" and "List models". `input_type`, `instruction`,
`truncate`, `max_tokens`, `token_ids`, `cache` and `repeatable` are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import orjson
from aiohttp import web
from msgspec import UNSET, Meta

from edgeembed.common.status import ListedModel
from edgeembed.engine.interface import Side
from edgeembed.errors import ModelNotFoundError, RequestError, TokenInputError
from edgeembed.inference.requests import Cut, EmbedRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.models.registry import Listing
from edgeembed.server.app_keys import BODY_DIGEST, MAX_INPUTS, SERVICE
from edgeembed.server.body import CacheField, cache_use, decode, json_name
from edgeembed.server.embeddings_json import write_embeddings
from edgeembed.server.fields import PROMPT, TRUNCATE, Positive, TextsOrIds, answer_headers, check_positive
from edgeembed.server.proxy import FORWARD
from edgeembed.server.responses import json_bytes, json_response, plain, struct_response

routes = web.RouteTableDef()


class EmbeddingsBody(msgspec.Struct):
    """The body of POST /v1/embeddings. Fields that we do not know are ignored, as OpenAI's clients may send any; null stands
    for a field that was left out, as typed clients write it.
    """

    input: TextsOrIds
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: Annotated[InputType | None, Meta(description=PROMPT)] = None
    instruction: Annotated[str | None, Meta(description="The task, for models that take one.")] = None
    truncate: Annotated[Side | None, Meta(description=f"{TRUNCATE} end or start is what goes.")] = None
    max_tokens: Annotated[
        Positive | None, Meta(description="The longest text in tokens, where that is less than the model takes.")
    ] = None
    token_ids: Annotated[
        Literal["model"] | None,
        Meta(description="model: input is a list of this model's token ids, or several; POST /v1/tokenize gives them."),
    ] = None
    cache: CacheField = None
    repeatable: Annotated[
        bool | None,
        Meta(
            description="Compute these texts by themselves, past the cache: the same request gives the same bits each time. "
            "Otherwise a vector's last digits depend on which texts happen to be computed together."
        ),
    ] = None


_CHOICES = {
    "encoding_format": ("float", "base64"),
    "input_type": ("query", "document"),
    "truncate": ("none", "end", "start"),
    "token_ids": ("model",),
    "repeatable": ("true", "false"),
    "cache": ("true", "false", '"no-store"', '"keep"'),
}
_body_decoder = msgspec.json.Decoder(EmbeddingsBody)


@routes.post("/v1/embeddings")
async def embeddings(request: web.Request) -> web.Response:
    """Embed a string or a list of strings."""
    raw = await request.read()
    body = decode(raw, _body_decoder, _CHOICES)
    check_positive(body.max_tokens, "max_tokens")
    ids, single = _ids(body, request.app[MAX_INPUTS])
    texts = _texts(body.input, request.app[MAX_INPUTS]) if ids is None else []
    service = request.app[SERVICE]
    result = await service.embed(
        EmbedRequest(
            texts=texts,
            model=body.model,
            input_type=body.input_type,
            instruction=body.instruction,
            dimensions=body.dimensions,
            single=single,
            cache=cache_use(body.cache, request),
            lengths=Lengths(body.truncate or "none", body.max_tokens),
            ids=ids,
            repeatable=bool(body.repeatable),
        )
    )
    written = write_embeddings(result, body.encoding_format or "float")
    if digest := request.get(BODY_DIGEST):
        service.store_response(digest, written, result)
    if cuts := result.cuts:  # such an answer is never kept as it was written, so that its header always comes with it
        written = b'%b,"truncated":%b}' % (written[:-1], _truncated(cuts))
    return json_bytes(written, answer_headers(result, len(result.rows)))


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """List every name that a request may use: models, their types, prompts by suffix, aliases."""
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
    target = service.registry.find(name)
    if target is None:
        await service.registry.refresh()
        target = service.registry.find(name)
    if target is None and (forward := request.app.get(FORWARD)):
        return await forward.handle(request)
    if target is None:
        raise ModelNotFoundError(f"no model {name!r} is known here. GET /v1/models lists every name", param="model")
    return struct_response(_listed(service, Listing(name, target)))


def _listed(service: EmbeddingService, listing: Listing) -> ListedModel:
    model = listing.target.model
    slot = service.pool.slot_of(model)
    info = slot.engine.info if slot and slot.engine else None
    dimensions = (info.dimensions if info else model.dimensions) if model.task == "embed" else None
    return ListedModel(
        id=listing.name,
        created=model.created,
        task=model.task,
        type=model.type,
        loaded=slot is not None and slot.state == "ready",
        root=UNSET if listing.name.lower() in (model.name.lower(), model.spec.lower()) else model.spec,
        input_type=listing.target.input_type or UNSET,
        dimensions=dimensions or UNSET,
        context_tokens=info.context_tokens if info else UNSET,
    )


def _texts(given: str | list[Any], most: int) -> list[str]:
    """Give the input as a list of strings. Raises RequestError naming the first item that is not one."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestError("input is an empty list; send at least one text", param="input")
    if len(given) > most:
        raise RequestError(f"input has {len(given)} items; at most {most} are taken in one request", param="input")
    wrong = next((index for index, item in enumerate(given) if type(item) is not str), None)
    if wrong is None:
        return given
    if _is_tokens(given) or all(isinstance(item, list) and _is_tokens(item) for item in given):
        raise TokenInputError(
            "input holds token ids, whose vocabulary nobody can know here: clients such as LangChain send ids of an OpenAI "
            "model. Send text instead; in LangChain set OpenAIEmbeddings(check_embedding_ctx_length=False). Ids of this "
            'very model are taken with "token_ids": "model"',
            param="input",
        )
    raise RequestError(f"input[{wrong}] is {json_name(given[wrong])}; a string is expected", param=f"input[{wrong}]")


def _ids(body: EmbeddingsBody, most: int) -> tuple[list[list[int]] | None, bool]:
    """Give the input as lists of ids, if it is to be that, and whether it is one item and no list of them.

    Raises RequestError naming the first item that is no list of ids.
    """
    given = body.input
    if body.token_ids is None or not isinstance(given, list) or not given:
        if body.token_ids is not None and isinstance(given, str):
            raise RequestError("input is a string; token_ids asks for a list of token ids", param="input")
        return None, isinstance(given, str)
    if _is_tokens(given):
        return [given], True
    if len(given) > most:
        raise RequestError(f"input has {len(given)} items; at most {most} are taken in one request", param="input")
    wrong = next((index for index, item in enumerate(given) if not isinstance(item, list) or not _is_tokens(item)), None)
    if wrong is not None:
        raise RequestError(
            f"input[{wrong}] is {json_name(given[wrong])}; a list of token ids is expected", param=f"input[{wrong}]"
        )
    return given, False


def _is_tokens(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)


def _truncated(cuts: list[Cut]) -> bytes:
    return orjson.dumps([{"index": cut.index, "tokens": cut.tokens, "full_tokens": cut.full} for cut in cuts])
