"""The answer of POST /v1/embeddings: JSON, or the bytes of the numbers as vLLM sends them."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec
import orjson
from aiohttp import web
from msgspec import UNSET

from edgeembed.cache import CachedRow
from edgeembed.common.trace import traced
from edgeembed.engine.interface import Row
from edgeembed.errors import RequestError
from edgeembed.inference.aside import Aside
from edgeembed.inference.number_formats import base64_rows, quantised, row_bytes, row_size
from edgeembed.inference.postprocess import Matrix
from edgeembed.inference.requests import ClassifyResult, EmbedResult
from edgeembed.server.dialects.embeddings_body import NumberFormat
from edgeembed.server.dialects.token_rows import bytes_in_parts
from edgeembed.server.fields import truncated_items

_METADATA_HEADER = "metadata"
_LONGEST_HEADER = 8000
"""Bytes; common clients refuse longer ones."""


@traced(before="wake the request", within="encode")
def write_json(result: EmbedResult, numbers: NumberFormat) -> bytes:
    """Return the answer as JSON. Turning numbers into digits is most of the work of a cache hit."""
    rows = enumerate(written_rows(matrix_of(result, numbers), numbers))
    chunks = _chunks(result, numbers)
    tokens = sum(row.tokens for row in result.rows)
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b%b}' % (index, row, chunks[index] if chunks else b"")
            for index, row in rows
        ),
        orjson.dumps(result.model.name),
        tokens,
        tokens,
    )


def _chunks(result: EmbedResult, numbers: NumberFormat) -> list[bytes]:
    """Return for each text its windows as a field of an object, if the request wants them."""
    found = []
    for windows in result.windows or ():
        written = written_rows(matrix_of(result, numbers, [window.row for window in windows]), numbers)
        items = [
            b'{"start":%d,"end":%d,"tokens":%d,"embedding":%b}' % (start, end, row.tokens, embedding)
            for (start, end, row), embedding in zip(windows, written, strict=True)
        ]
        found.append(b',"chunks":[%b]' % b",".join(items))
    return found


def with_cuts(written: bytes, result: EmbedResult) -> bytes:
    """Return an answer as JSON with the list of the texts that were cut, if any were."""
    if (items := truncated_items(result)) is UNSET:
        return written
    return b'%b,"truncated":%b}' % (written[:-1], msgspec.json.encode(items))


async def bytes_response(aside: Aside, result: EmbedResult, numbers: NumberFormat, headers: dict[str, str]) -> web.Response:
    """Return the bytes of all rows; see `bytes_of_items`. Raises RequestError."""
    if result.windows is not None:
        raise RequestError("chunks are sent as JSON only; leave encoding_format out", param="encoding_format")
    matrix = await aside.run(result.numbers, matrix_of, result, numbers)
    return bytes_of_items(aside, result, iter(matrix[:, None]), [matrix.shape[1:]] * len(matrix), numbers, headers)


def bytes_of_items(
    aside: Aside,
    result: EmbedResult | ClassifyResult,
    items: Iterator[Matrix],
    shapes: Sequence[tuple[int, ...]],
    numbers: NumberFormat,
    headers: dict[str, str],
) -> web.Response:
    """Return the bytes of the rows of each text, one after the other. The header `metadata` says where each begins and ends.

    shapes: of the numbers of each text. Raises RequestError if there are too many texts for a header.
    """
    size = row_size(shapes[0][-1], numbers.dtype)
    sizes = [math.prod(shape[:-1]) * size for shape in shapes]
    if numbers.encoding == "bytes":
        metadata = _metadata(result, sizes, shapes, numbers)
        if len(metadata) > _LONGEST_HEADER:
            raise RequestError(
                f"encoding_format bytes describes {len(shapes)} texts in a header, which is too long; use bytes_only, or "
                "send fewer texts",
                param="encoding_format",
            )
        headers = {**headers, _METADATA_HEADER: metadata}
    pieces = (row for item in items for row in row_bytes(item, numbers.dtype, numbers.endianness))
    return bytes_in_parts(aside, sum(map(math.prod, shapes)), pieces, sum(sizes), headers)


def _metadata(
    result: EmbedResult | ClassifyResult, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]], numbers: NumberFormat
) -> str:
    ends, tokens = list(accumulate(sizes)), sum(result.tokens)
    data = [
        {
            "index": index,
            "embed_dtype": numbers.dtype,
            "endianness": numbers.endianness,
            "start": end - size,
            "end": end,
            "shape": shape,
        }
        for index, (size, end, shape) in enumerate(zip(sizes, ends, shapes, strict=True))
    ]
    described = {
        "id": f"embd-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": result.model.name,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(described).decode()


def matrix_of(result: EmbedResult, numbers: NumberFormat, rows: Sequence[Row | CachedRow] | None = None) -> Matrix:
    """Return the rows of texts, or other ones of the same model, as the request wants them."""
    if rows is not None:
        result = msgspec.structs.replace(result, rows=rows)
    return result.vectors if numbers.norm == 2 else result.scaled(numbers.norm)


def written_rows(matrix: Matrix, numbers: NumberFormat) -> list[bytes]:
    """Return each row as JSON: a list of numbers, or base64."""
    if numbers.encoding == "base64":
        return [b'"%b"' % row.encode() for row in base64_rows(matrix, numbers.dtype, numbers.endianness)]
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in quantised(matrix, numbers.dtype)]
