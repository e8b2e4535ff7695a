"""The dialect of text-embeddings-inference (TEI): what it computes of texts, and POST / for several of its routes.

Rows of tokens and sparse vectors are in `tei_outputs`, scores in `tei_scores`, tokens in `tei_tokens`, GET /info in
`tei_info`. The field `model` is an extension, as TEI serves a single model. POST / is what `huggingface_hub.InferenceClient`
uses when its model is the server's address.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from aiohttp import web
from msgspec import UNSET

from edgeembed.inference.aside import DIGITS
from edgeembed.inference.requests import EmbedRequest, EmbedResult
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import BodyType, cache_use, name_in, peek_body, read_body
from edgeembed.server.dialects import tei_scores
from edgeembed.server.dialects.tei_fields import (
    DirectionField,
    PromptNameField,
    TeiTextsBody,
    TruncateField,
    batch_of,
    embed_headers,
    embed_request,
    lengths,
)
from edgeembed.server.fields import (
    PositiveField,
    TextField,
    TextListField,
    input_type_of,
)
from edgeembed.server.long_texts import LongTextField, long_text_of
from edgeembed.server.responses import array_json, json_bytes, json_response

routes = web.RouteTableDef()


class TeiEmbedBody(TeiTextsBody):
    """Texts to embed. With `normalize: false`, rows are not scaled to length 1."""

    normalize: bool | None = None
    long_text: LongTextField = None
    dimensions: PositiveField | None = None


class SimilarityInputs(msgspec.Struct):
    """One sentence, and others to compare it with."""

    source_sentence: TextField
    sentences: TextListField


class SimilarityParameters(msgspec.Struct):
    """How the sentences are embedded."""

    truncate: TruncateField = None
    truncation_direction: DirectionField = None
    prompt_name: PromptNameField = None
    long_text: LongTextField = None


class SimilarityBody(msgspec.Struct):
    """Sentences to compare."""

    inputs: SimilarityInputs
    parameters: Annotated[SimilarityParameters | None, msgspec.Meta(description="How they are embedded.")] = None
    model: str | None = None


_EMBED = BodyType(TeiEmbedBody)
_SIMILARITY = BodyType(SimilarityBody)


@routes.post("/")
async def root(request: web.Request) -> web.StreamResponse:
    """Rerank (`texts`), compare (`inputs` with `source_sentence`), or embed or classify `inputs`, as the model does."""
    fields = await peek_body(request)
    if fields.texts is not UNSET:
        return await tei_scores.rerank(request)
    if isinstance(fields.inputs, msgspec.Raw) and bytes(fields.inputs).lstrip().startswith(b"{"):
        return await similarity(request)
    if await request.app[SERVICE].registry.task_of(name_in(fields.model)) == "classify":
        return await tei_scores.predict(request)
    return await embed_texts(request)


@routes.post("/embed")
async def embed_texts(request: web.Request) -> web.Response:
    """Embed a text or a list of texts; the response is a list of rows."""
    began = time.perf_counter()
    body = await read_body(request, _EMBED)
    service, asked = request.app[SERVICE], embed_request(request, body)
    long_text = long_text_of(body.long_text, service.long_text, ids=asked.ids is not None, truncate=body.truncate)
    asked = msgspec.structs.replace(asked, dimensions=body.dimensions, long_text=long_text)
    result = await service.embed(asked)
    written = await service.aside.run(DIGITS * result.numbers, _written, result, body)
    return json_bytes(written, embed_headers(result, asked, began))


@routes.post("/similarity")
async def similarity(request: web.Request) -> web.Response:
    """Compare one sentence with others; the response has the cosine of each, in the request's order."""
    began = time.perf_counter()
    body = await read_body(request, _SIMILARITY)
    sentences = batch_of(body.inputs.sentences, request.app[MAX_REQUEST_TEXTS], "inputs.sentences")
    parameters = body.parameters or SimilarityParameters()
    service = request.app[SERVICE]
    asked = EmbedRequest(
        texts=[body.inputs.source_sentence, *sentences],
        model=body.model,
        input_type=input_type_of(parameters.prompt_name, "parameters.prompt_name"),
        param="inputs.sentences",
        first="inputs.source_sentence",
        cache=cache_use(None, request),
        lengths=lengths(parameters.truncate, parameters.truncation_direction),
        long_text=long_text_of(parameters.long_text, service.long_text, truncate=parameters.truncate),
    )
    result = await service.embed(asked)
    cosines = await service.aside.run(result.numbers, _cosines, result)
    return json_response(cosines, headers=embed_headers(result, asked, began))


def _written(result: EmbedResult, body: TeiEmbedBody) -> bytes:
    return array_json(result.vectors if body.normalize is not False else result.scaled(-1))


def _cosines(result: EmbedResult) -> npt.NDArray[np.float64]:
    one, *many = result.vectors.astype(np.float64)
    cosines: npt.NDArray[np.float64] = np.clip(np.stack(many) @ one, -1.0, 1.0)
    return cosines
