"""The body of POST /v1/embeddings: the fields of OpenAI, and those of the other servers that have this route.

Reference: the API documentation of OpenAI, Jina, Mistral, NVIDIA NIM and Voyage, "Create embeddings"; the protocols of vLLM
(entrypoints/pooling), SGLang (entrypoints/openai) and infinity; llama-server's README. The fields `token_ids`, `cache`,
`long_text` and `repeatable` are our own. `outputs` reads the fields that say what is returned; `unsupported_fields` has
those that are refused.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from edgeembed.common.trace import traced
from edgeembed.engine.interface import Side
from edgeembed.errors import RequestError
from edgeembed.inference.number_formats import Dtype, Endianness
from edgeembed.inference.requests import EmbedRequest, LongText
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.server.app_keys import MAX_REQUEST_TEXTS, SERVICE
from edgeembed.server.body import CacheField, cache_use
from edgeembed.server.fields import (
    PROMPT,
    InputTypeField,
    PositiveField,
    TextsOrIdsField,
    TruncateField,
    check_count,
    id_lists_of,
    input_type_of,
    lengths_of_text,
    message_text,
    only_one,
    side_to_cut,
    texts_of,
    word_of,
)
from edgeembed.server.long_texts import LONG_TEXT, long_text_of

Encoding: TypeAlias = Literal["float", "base64", "bytes", "bytes_only"]
_DTYPES: dict[str, Dtype] = {"float": "float32", **{dtype: dtype for dtype in get_args(Dtype)}}
_FORMS: dict[str, tuple[Encoding, Dtype | None]] = {
    **{encoding: (encoding, None) for encoding in get_args(Encoding)},
    **{dtype: ("float", dtype) for dtype in ("int8", "uint8", "binary", "ubinary")},
}
"""The words of encoding_format: of encodings, and of types whose numbers are written as numbers."""
DtypeField: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [*_DTYPES]})]
FormField: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": [*_FORMS]})]


class EmbeddingFields(msgspec.Struct):
    """Texts to embed, and how. Other fields are ignored, or refused if they would change the numbers; null is the same as
    leaving a field out.
    """

    input: TextsOrIdsField | UnsetType = UNSET
    messages: Annotated[
        list[Any] | None, Meta(description="Instead of input: a list with one chat message, whose text is embedded.")
    ] = None
    model: str | None = None
    encoding_format: Annotated[
        FormField | None,
        Meta(
            description="float: numbers. base64: their bytes in base64. bytes: the bytes alone, and a header "
            "metadata describes them. bytes_only: without it. A type means numbers of this output_dtype."
        ),
    ] = None
    output_dtype: Annotated[
        DtypeField | None,
        Meta(description="The type of the numbers; binary and ubinary are signs, eight in a byte (int8 and uint8)."),
    ] = None
    embed_dtype: Annotated[DtypeField | None, Meta(description="vLLM's name for output_dtype.")] = None
    embedding_type: Annotated[
        FormField | list[FormField] | None,
        Meta(description="Jina's name for encoding_format and output_dtype; a list may have one item."),
    ] = None
    endianness: Annotated[
        Literal["native", "little", "big"] | None,
        Meta(description="The order of the bytes in base64 and bytes; native is little."),
    ] = None
    dimensions: Annotated[int | None, Meta(description="Keep the first N numbers, scaled to length 1 again; 0 is all.")] = (
        None
    )
    output_dimension: Annotated[int | None, Meta(description="Voyage's and Mistral's name for dimensions.")] = None
    normalize: Annotated[bool | None, Meta(description="Whether vectors are scaled to length 1, which is the default.")] = (
        None
    )
    normalized: Annotated[bool | None, Meta(description="Jina's name for normalize.")] = None
    embd_normalize: Annotated[
        int | None,
        Meta(
            description="llama-server's normalize: -1 none, 0 largest number 32760, 1 sum of magnitudes, 2 length, N: "
            "p-norm.",
            extra_json_schema={"minimum": -1, "maximum": 100},
        ),
    ] = None
    use_activation: Annotated[bool | None, Meta(description="vLLM's name for normalize.")] = None
    user: str | None = None
    input_type: Annotated[InputTypeField | None, Meta(description=PROMPT)] = None
    task: Annotated[InputTypeField | None, Meta(description="Jina's name for input_type.")] = None
    prompt_name: Annotated[InputTypeField | None, Meta(description="The name of sentence-transformers for input_type.")] = (
        None
    )
    prompt: Annotated[str | None, Meta(description="A text to put before each text, instead of the model's prompt.")] = None
    instruction: Annotated[str | None, Meta(description="The task, for models whose prompt has one.")] = None
    truncate: Annotated[
        TruncateField | None,
        Meta(
            description="What happens to texts that are too long: end or start cuts off that side, while the prompt and "
            "special tokens are kept; none refuses them. The default is the server's setting truncate."
        ),
    ] = None
    long_text: Annotated[
        LongText | None,
        Meta(description=f"{LONG_TEXT} chunks: the same, and chunks of each item has the windows with their vectors."),
    ] = None
    truncation: Annotated[bool | None, Meta(description="Voyage's truncate: true cuts off the end.")] = None
    truncate_prompt_tokens: Annotated[
        int | None,
        Meta(
            description="vLLM's truncate: cut to so many tokens; -1 is the model's limit.", extra_json_schema={"minimum": -1}
        ),
    ] = None
    truncation_side: Annotated[
        Literal["left", "right"] | None,
        Meta(description="The side that truncation and truncate_prompt_tokens cut off; right by default."),
    ] = None
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


class EmbeddingsBody(EmbeddingFields):
    """Texts to embed, and what to return of each. Other fields are ignored, or refused if they would change the numbers;
    null is the same as leaving a field out.
    """

    sparse: Annotated[
        bool | None,
        Meta(description="Return the sparse vector of each text, too, as sparse_embedding, if the model has any."),
    ] = None
    multi_vector: Annotated[
        bool | None,
        Meta(description="Return a vector for each token, too, as multi_embedding, if the model has a head for them."),
    ] = None
    return_dense: Annotated[
        bool | None,
        Meta(description="With sparse or multi_vector: whether the dense vector is returned. By default, if there is one."),
    ] = None
    return_sparse: Annotated[bool | None, Meta(description="FlagEmbedding's name for sparse.")] = None
    return_colbert_vecs: Annotated[bool | None, Meta(description="FlagEmbedding's name for multi_vector.")] = None
    return_multivector: Annotated[
        bool | None, Meta(description="Jina's: a vector for each token, as embeddings, instead of the dense vector.")
    ] = None
    sparse_top_k: Annotated[PositiveField | None, Meta(description="Keep the N heaviest tokens of a sparse vector.")] = None
    sparse_threshold: Annotated[
        float | None, Meta(description="Leave out tokens with less weight.", extra_json_schema={"minimum": 0})
    ] = None
    sparse_words: Annotated[bool | None, Meta(description="Return the text of each token of a sparse vector, too.")] = None


class NumberFormat(msgspec.Struct, frozen=True):
    """How the numbers of an answer are written. norm: see `postprocess.scaled_rows`."""

    encoding: Encoding = "float"
    dtype: Dtype = "float32"
    endianness: Endianness = "little"
    norm: int = 2


_OTHERS = EmbeddingsBody.__struct_fields__.index("encoding_format") + 1
_PLAIN = msgspec.structs.astuple(EmbeddingsBody())[_OTHERS:]
_PLAIN_FORMATS = {None: NumberFormat(), "float": NumberFormat(), "base64": NumberFormat("base64")}


def is_plain(body: EmbeddingsBody) -> bool:
    """Return whether a body has nothing but input, model and a usual encoding, as those of nearly all clients."""
    # All at once, since each field takes as long as this.
    others = msgspec.structs.astuple(body)[_OTHERS : _OTHERS + len(_PLAIN)]
    return others == _PLAIN and body.messages is None and body.encoding_format in _PLAIN_FORMATS


@traced(within="validate")
def plain_request(request: web.Request, body: EmbeddingsBody, token_hint: str) -> tuple[EmbedRequest, NumberFormat]:
    """Return what `embed_request` and `number_format` return for a body that `is_plain`. Raises RequestError."""
    app = request.app
    service = app[SERVICE]
    texts, _, single = texts_and_ids(body, app[MAX_REQUEST_TEXTS], token_hint)
    asked = EmbedRequest(
        texts=texts,
        model=body.model,
        single=single,
        cache=cache_use(None, request),
        lengths=_default_lengths(service.truncate),
        long_text=service.long_text,
    )
    return asked, _PLAIN_FORMATS[body.encoding_format]


@cache
def _default_lengths(default: Side) -> Lengths:
    return lengths(EmbeddingsBody(), default)


def number_format(body: EmbeddingFields) -> NumberFormat:
    """Return how the numbers of the answer are written. Raises RequestError for fields that contradict each other."""
    jina = body.embedding_type
    if isinstance(jina, list):
        if len(jina) != 1:
            raise RequestError("embedding_type is a list; it may have one item", param="embedding_type")
        jina = jina[0]
    form = word_of(body.encoding_format, _FORMS, "encoding_format") or (None, None)
    jinas_form = word_of(jina, _FORMS, "embedding_type") or (None, None)
    encoding: Encoding | None = only_one(encoding_format=form[0], embedding_type=jinas_form[0])
    dtype: Dtype | None = only_one(
        output_dtype=word_of(body.output_dtype, _DTYPES, "output_dtype"),
        embed_dtype=word_of(body.embed_dtype, _DTYPES, "embed_dtype"),
        encoding_format=form[1],
        embedding_type=jinas_form[1],
    )
    norm = _norm(body)
    if norm != 2 and dtype in ("int8", "uint8"):
        raise RequestError(f"{dtype} needs vectors of length 1, but the request turns that off", param="normalize")
    return NumberFormat(encoding or "float", dtype or "float32", "big" if body.endianness == "big" else "little", norm)


@traced(within="validate")
def embed_request(request: web.Request, body: EmbeddingFields, token_hint: str = "") -> EmbedRequest:
    """Return what a body asks for; its vectors are dense ones. token_hint: see `texts_of`. Raises RequestError."""
    service = request.app[SERVICE]
    texts, ids, single = texts_and_ids(body, request.app[MAX_REQUEST_TEXTS], token_hint)
    return EmbedRequest(
        texts=texts,
        model=body.model,
        input_type=_input_type(body),
        instruction=body.instruction,
        prefix=body.prompt,
        dimensions=only_one(dimensions=body.dimensions, output_dimension=body.output_dimension) or None,
        single=single,
        cache=cache_use(body.cache, request),
        lengths=lengths(body, service.truncate),
        ids=ids,
        repeatable=bool(body.repeatable),
        long_text=_long_text(body, service.long_text),
    )


def _input_type(body: EmbeddingFields) -> InputType | None:
    """Return what the texts are embedded for. Raises RequestError for an unknown word."""
    task = None if body.task == "embed" else body.task  # vLLM's name of what this route does
    return only_one(
        input_type=input_type_of(body.input_type, "input_type"),
        task=input_type_of(task, "task"),
        prompt_name=input_type_of(body.prompt_name, "prompt_name"),
    )


def lengths(body: EmbeddingFields, default: Side) -> Lengths:
    """Return how long a text may be, and what happens to a longer one: `default` if the request does not say."""
    most = body.truncate_prompt_tokens
    side = side_to_cut(body.truncate, body.truncation, body.truncation_side, default if most is None else "end")
    return lengths_of_text(side, body.truncation_side, most, body.max_tokens)


def _long_text(body: EmbeddingFields, default: LongText) -> LongText:
    """Return what a text that is too long becomes: `default` if the request does not say. Raises RequestError."""
    return long_text_of(
        body.long_text,
        default,
        ids=body.token_ids is not None,
        truncate=body.truncate,
        truncation=body.truncation,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
    )


def refuse_long_text(body: EmbeddingFields) -> None:
    """Raise RequestError if long texts are to be divided, which only dense vectors of windows are made one of."""
    if body.long_text not in (None, "none"):
        raise RequestError("long_text is for dense vectors alone; split the text, or have it cut", param="long_text")


def texts_and_ids(body: EmbeddingFields, most: int, token_hint: str) -> tuple[list[str], list[list[int]] | None, bool]:
    """Return the texts, or else the lists of token ids, and whether the field has a single item and not a list.

    Raises RequestError naming the first item that is wrong.
    """
    given = body.input
    if body.messages is not None:
        if given is not UNSET:
            raise RequestError("both input and messages are given; send one of them", param="messages")
        return [message_text(body.messages)], None, True
    if given is UNSET:
        raise RequestError("input is missing; send a text or a list of texts", param="input")
    if body.token_ids is None:
        return texts_of(given, most, "input", token_hint=token_hint), None, not isinstance(given, list)
    if not isinstance(given, list):
        raise RequestError("input is one text; with token_ids, expected a list of token ids", param="input")
    ids, single = id_lists_of(given, "input")
    check_count(ids, most, "input")
    return [], ids, single


def _norm(body: EmbeddingFields) -> int:
    unit = only_one(normalize=body.normalize, normalized=body.normalized, use_activation=body.use_activation)
    norm = body.embd_normalize
    if norm is not None and not -1 <= norm <= 100:
        raise RequestError(f"embd_normalize is {norm}; expected -1 to 100", param="embd_normalize")
    found = only_one(normalize=None if unit is None else 2 if unit else -1, embd_normalize=norm)
    return 2 if found is None else found
