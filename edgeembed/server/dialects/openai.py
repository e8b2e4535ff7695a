"""OpenAI's dialect: POST /v1/embeddings, GET /v1/models.

Reference: the OpenAI API documentation, "Create embeddings" and "List models". The fields `input_type`, `instruction`,
`truncate`, `max_tokens`, `token_ids`, `cache` and `repeatable` are extensions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import orjson
from aiohttp import web
from msgspec import UNSET, Meta

from edgeembed.common.status import ListedModel
from edgeembed.engine.interface import Side
from edgeembed.errors import ModelNotFoundError, RequestError, quoted
from edgeembed.inference.postprocess import Matrix, base64_rows
from edgeembed.inference.requests import Cut, EmbedRequest, EmbedResult
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.models.registry import ModelListing
from edgeembed.server.app_keys import BODY_DIGEST, MAX_INPUTS, SERVICE
from edgeembed.server.body import BodyType, CacheField, cache_use, json_name, read_body
from edgeembed.server.fields import (
    PROMPT,
    TRUNCATE,
    PositiveField,
    TextsOrIdsField,
    answer_headers,
    check_count,
    check_positive,
    is_token_ids,
    texts_of,
)
from edgeembed.server.proxy import FORWARD
from edgeembed.server.responses import json_bytes, json_response, plain, struct_response

routes = web.RouteTableDef()

Encoding = Literal["float", "base64"]


class EmbeddingsBody(msgspec.Struct):
    """Texts to embed. Unknown fields are ignored; null is the same as leaving a field out."""

    input: TextsOrIdsField
    model: str | None = None
    encoding_format: Encoding | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: Annotated[InputType | None, Meta(description=PROMPT)] = None
    instruction: Annotated[str | None, Meta(description="The task, for models whose prompt has one.")] = None
    truncate: Annotated[Side | None, Meta(description=f"{TRUNCATE} end or start: the side to cut off.")] = None
    max_tokens: Annotated[
        PositiveField | None, Meta(description="The longest text in tokens, if less than the model's limit.")
    ] = None
    token_ids: Annotated[
        Literal["model"] | None,
        Meta(description="model: input is a list of this model's token ids, or several lists; see POST /v1/tokenize."),
    ] = None
    cache: CacheField = None
    repeatable: Annotated[
        bool | None,
        Meta(
            description="Compute these texts on their own and without the cache, so that the same request always returns "
            "the same bits. Otherwise the last digits of a vector depend on which texts are computed together."
        ),
    ] = None


_BODY = BodyType(EmbeddingsBody)
_TOKEN_HINT = (
    ". Clients such as LangChain send ids of an OpenAI model; in LangChain, set "
    'OpenAIEmbeddings(check_embedding_ctx_length=False). To send ids of this model, set "token_ids": "model"'
)


@routes.post("/v1/embeddings")
async def embeddings(request: web.Request) -> web.Response:
    """Embed a string or a list of strings."""
    body = await read_body(request, _BODY)
    check_positive(body.max_tokens, "max_tokens")
    ids, single = _token_ids(body, request.app[MAX_INPUTS])
    texts = texts_of(body.input, request.app[MAX_INPUTS], "input", token_hint=_TOKEN_HINT) if ids is None else []
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
    written = await service.aside.run(result.numbers, _write, result, body.encoding_format or "float")
    if digest := request.get(BODY_DIGEST):
        service.store_response(digest, written, result)
    if cuts := result.cuts:  # such answers are never cached as bytes, as they need a header
        written = b'%b,"truncated":%b}' % (written[:-1], _truncated(cuts))
    return json_bytes(written, answer_headers(result, len(result.rows)))


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
    target = service.registry.find(name)
    if target is None:
        await service.registry.refresh()
        target = service.registry.find(name)
    if target is None and (forward := request.app.get(FORWARD)):
        return await forward.handle(request)
    if target is None:
        raise ModelNotFoundError(f"no model {quoted(name)}; GET /v1/models lists every name", param="model")
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
        type=model.type,
        loaded=slot is not None and slot.state == "ready",
        root=UNSET if listing.name.lower() in (model.name.lower(), model.spec.lower()) else model.spec,
        input_type=listing.target.input_type or UNSET,
        dimensions=dimensions or UNSET,
        context_tokens=info.context_tokens if info else UNSET,
    )


def _token_ids(body: EmbeddingsBody, most: int) -> tuple[list[list[int]] | None, bool]:
    """Return the input as lists of token ids (None if it is text), and whether it is a single item and not a list.

    Raises RequestError naming the first item that is not a list of ids.
    """
    given = body.input
    if body.token_ids is None:
        return None, isinstance(given, str)
    if isinstance(given, str):
        raise RequestError("input is a string; with token_ids, expected a list of token ids", param="input")
    if given and is_token_ids(given):
        return [given], True
    check_count(given, most, "input")
    wrong = next((index for index, item in enumerate(given) if not isinstance(item, list) or not is_token_ids(item)), None)
    if wrong is not None:
        place = f"input[{wrong}]"
        raise RequestError(f"{place} is {json_name(given[wrong])}; expected a list of token ids", param=place)
    return given, False


def _truncated(cuts: list[Cut]) -> bytes:
    return orjson.dumps([{"index": cut.index, "tokens": cut.tokens, "full_tokens": cut.full} for cut in cuts])


def _write(result: EmbedResult, encoding: Encoding) -> bytes:
    """Return the answer as JSON. Turning numbers into digits is most of the work of a cache hit."""
    rows = enumerate(_json_rows(result.vectors, encoding))
    tokens = sum(row.tokens for row in result.rows)
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % (index, row) for index, row in rows),
        orjson.dumps(result.model.name),
        tokens,
        tokens,
    )


def _json_rows(vectors: Matrix, encoding: Encoding) -> list[bytes]:
    if encoding == "base64":
        return [b'"%b"' % row.encode() for row in base64_rows(vectors)]
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in vectors]
