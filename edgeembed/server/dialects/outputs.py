"""Outputs besides the dense vector, in requests and answers of POST /v1/embeddings: sparse vectors and vectors of tokens.

The fields are our own and those of FlagEmbedding's `BGEM3FlagModel.encode`; `return_multivector` and the answer to it are
Jina's. A sparse vector has the shape of Qdrant's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import orjson

from edgeembed.engine.interface import Output
from edgeembed.engine.outputs import ordered
from edgeembed.errors import RequestError
from edgeembed.inference.postprocess import Matrix, sparse_vector
from edgeembed.inference.requests import DetokenizeRequest, EmbedResult
from edgeembed.inference.service import EmbeddingService, check_outputs
from edgeembed.models.prompts import InputType
from edgeembed.server.dialects.embeddings_answer import matrix_of, written_rows
from edgeembed.server.dialects.embeddings_body import EmbeddingsBody, NumberFormat, refuse_long_text
from edgeembed.server.dialects.token_rows import check_width, json_list, token_rows
from edgeembed.server.fields import check_positive, only_one, truncated_items

MOST_WORDS = 16_384
"""Different tokens whose texts one answer has."""


_NAMES: dict[Output, tuple[str, ...]] = {
    "dense": ("return_dense",),
    "multi": ("multi_vector", "return_colbert_vecs", "return_multivector"),
    "sparse": ("sparse", "return_sparse"),
}
"""The fields that ask for an output."""


class OutputForm(msgspec.Struct, frozen=True):
    """What an answer has of each text.

    multi_name: of the field with the vectors of tokens. top_k, threshold: of sparse vectors; see `sparse_vector`. words:
    whether they have the texts of their tokens.
    """

    outputs: tuple[Output, ...]
    multi_name: str = "multi_embedding"
    top_k: int | None = None
    threshold: float = 0.0
    words: bool = False

    def sparse(self, pairs: Matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and weights of a sparse vector, as far as the request wants them."""
        return sparse_vector(pairs, self.top_k, self.threshold)


async def output_form(
    body: EmbeddingsBody, service: EmbeddingService, input_type: InputType | None, *, jina: bool = False
) -> OutputForm | None:
    """Return what a request wants of each text; None for the dense vector alone.

    input_type: of the texts, on which the model may depend. jina: the route is that for vectors of tokens. Raises
    RequestError for fields that contradict each other or that need another one.
    """
    sparse = only_one(sparse=body.sparse, return_sparse=body.return_sparse)
    jina = jina or bool(body.return_multivector)
    multi = only_one(multi_vector=body.multi_vector, return_colbert_vecs=body.return_colbert_vecs) or jina
    _check(body, bool(sparse), multi)
    if not sparse and not multi:
        return None
    model = (await service.registry.resolve(body.model, "embed", input_type=input_type)).model
    dense = body.return_dense
    if dense is None:
        dense = not jina and model.computes("dense")
    wanted: dict[Output, bool] = {"dense": dense, "multi": multi, "sparse": bool(sparse)}
    for output, names in _NAMES.items():
        if wanted[output]:
            check_outputs(model, [output], next((name for name in names if getattr(body, name)), "model"))
    outputs = ordered(output for output, is_wanted in wanted.items() if is_wanted)
    if outputs == ("sparse",):
        for name in ("dimensions", "output_dimension"):
            if getattr(body, name):
                raise RequestError(f"{name} is for vectors of numbers, not for sparse ones; leave it out", param=name)
    return OutputForm(
        outputs,
        "embeddings" if jina else "multi_embedding",
        body.sparse_top_k,
        body.sparse_threshold or 0.0,
        bool(body.sparse_words),
    )


def _check(body: EmbeddingsBody, sparse: bool, multi: bool) -> None:
    if body.return_dense is False and not sparse and not multi:
        raise RequestError("nothing is to be returned; set return_dense, sparse or multi_vector", param="return_dense")
    check_positive(body.sparse_top_k, "sparse_top_k")
    threshold = body.sparse_threshold
    if threshold is not None and threshold < 0:
        raise RequestError(f"sparse_threshold is {threshold:g}; expected at least 0", param="sparse_threshold")
    if not sparse:
        for name in ("sparse_top_k", "sparse_threshold", "sparse_words"):
            if getattr(body, name):
                raise RequestError(f'{name} is about sparse vectors; set "sparse": true', param=name)
    if sparse or multi:
        refuse_long_text(body)


def check_encoding(numbers: NumberFormat) -> None:
    """Raise RequestError for bytes, which cannot say what belongs to which output."""
    if numbers.encoding in ("bytes", "bytes_only"):
        raise RequestError(
            "several outputs are sent as JSON only; set encoding_format to float or base64. POST /pooling sends the bytes "
            "of vectors of tokens",
            param="encoding_format",
        )


async def words_of(service: EmbeddingService, result: EmbedResult, form: OutputForm) -> Mapping[int, bytes] | None:
    """Return the texts of the tokens in sparse vectors as JSON, by id; None if the request does not want them.

    Raises RequestError if there are too many.
    """
    if not form.words:
        return None
    ids = await service.aside.run(result.numbers, _ids, result, form)
    if len(ids) > MOST_WORDS:
        raise RequestError(
            f"the sparse vectors have {len(ids):,} different tokens, and an answer has the words of at most {MOST_WORDS:,}. "
            "Send fewer texts at a time, or set sparse_top_k",
            param="sparse_words",
        )
    asked = DetokenizeRequest([[token] for token in ids], result.model.spec, special=True, param="sparse_words")
    texts = await service.detokenize(asked) if ids else []
    return {token: orjson.dumps(text) for token, text in zip(ids, texts, strict=True)}


def _ids(result: EmbedResult, form: OutputForm) -> list[int]:
    found: set[int] = set()
    for pairs in result.each("sparse"):
        found.update(form.sparse(pairs)[0].tolist())
    return sorted(found)


def outputs_json(
    result: EmbedResult, numbers: NumberFormat, form: OutputForm, words: Mapping[int, bytes] | None
) -> Iterator[bytes]:
    """Return an iterator of the pieces of an answer in JSON. Raises RequestError."""
    check_width(result, form.outputs[0])  # the ones that `dimensions` is about
    return _pieces(result, numbers, form, words)


def _pieces(
    result: EmbedResult, numbers: NumberFormat, form: OutputForm, words: Mapping[int, bytes] | None
) -> Iterator[bytes]:
    yield b'{"object":"list","data":'
    yield from json_list(_items(result, numbers, form, words))
    tokens = sum(result.tokens)
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
    yield b',"model":%b,"usage":%b' % (orjson.dumps(result.model.name), usage)
    if cuts := truncated_items(result):
        yield b',"truncated":%b' % msgspec.json.encode(cuts)
    yield b"}"


def _items(
    result: EmbedResult, numbers: NumberFormat, form: OutputForm, words: Mapping[int, bytes] | None
) -> Iterator[Iterator[bytes]]:
    has = form.outputs
    dense = matrix_of(result, numbers) if "dense" in has else None
    dimensions = None if "dense" in has else result.dimensions
    multi = token_rows(result, "multi", numbers.norm, dimensions) if "multi" in has else None
    sparse = result.each("sparse") if "sparse" in has else None

    def item(index: int) -> Iterator[bytes]:
        yield b'{"object":"embedding","index":%d' % index
        if dense is not None:
            yield b',"embedding":%b' % written_rows(dense[index : index + 1], numbers)[0]
        if multi is not None:
            yield b',"%b":' % form.multi_name.encode()
            yield from json_list([row] for row in written_rows(next(multi), numbers))
        if sparse is not None:
            yield b',"sparse_embedding":%b' % _sparse(*form.sparse(next(sparse)), words)
        yield b"}"

    for index in range(len(result.rows)):
        yield item(index)


def _sparse(ids: np.ndarray, weights: np.ndarray, words: Mapping[int, bytes] | None) -> bytes:
    """Return a sparse vector as JSON."""
    indices, values = (orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY) for numbers in (ids, weights))
    texts = b"" if words is None else b',"words":[%b]' % b",".join([words[token] for token in ids.tolist()])
    return b'{"indices":%b,"values":%b%b}' % (indices, values, texts)
