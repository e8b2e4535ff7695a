"""The answer of POST /v1/embeddings: JSON, or the bytes of the numbers as vLLM sends them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec
import orjson
from aiohttp import hdrs, web
from msgspec import UNSET

from edgeembed.cache import CachedRow
from edgeembed.engine.interface import Row
from edgeembed.errors import RequestError
from edgeembed.inference.number_formats import base64_rows, quantised, row_bytes
from edgeembed.inference.postprocess import Matrix
from edgeembed.inference.requests import ClassifyResult, EmbedResult
from edgeembed.server.dialects.embeddings_body import NumberFormat
from edgeembed.server.fields import truncated_items
from edgeembed.server.responses import BYTES_TYPE, raw_response

_METADATA_HEADER = "metadata"
_LONGEST_HEADER = 8000
"""Bytes; common clients refuse longer ones."""


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


def bytes_response(result: EmbedResult, numbers: NumberFormat, headers: dict[str, str]) -> web.Response:
    """Return the bytes of all rows; see `bytes_of_items`. Raises RequestError."""
    if result.windows is not None:
        raise RequestError("chunks are sent as JSON only; leave encoding_format out", param="encoding_format")
    matrix = matrix_of(result, numbers)
    return bytes_of_items(result, (matrix[index : index + 1] for index in range(len(matrix))), False, numbers, headers)


def bytes_of_items(
    result: EmbedResult | ClassifyResult,
    items: Iterable[Matrix],
    of_tokens: bool,
    numbers: NumberFormat,
    headers: dict[str, str],
) -> web.Response:
    """Return the bytes of the rows of each text, one after the other. The header `metadata` says where each begins and ends.

    of_tokens: a text may have several rows, and so its numbers two dimensions. Raises RequestError if there are too many
    texts for a header.
    """
    written, shapes = list[bytes](), list[tuple[int, ...]]()
    for item in items:
        written.append(b"".join(row_bytes(item, numbers.dtype, numbers.endianness)))
        shapes.append(item.shape if of_tokens else item.shape[1:])
    headers = {hdrs.CONTENT_TYPE: BYTES_TYPE, **headers}
    if numbers.encoding == "bytes":
        metadata = _metadata(result, list(map(len, written)), shapes, numbers)
        if len(metadata) > _LONGEST_HEADER:
            raise RequestError(
                f"encoding_format bytes describes {len(written)} rows in a header, which is too long; use bytes_only, or "
                "send fewer texts",
                param="encoding_format",
            )
        headers[_METADATA_HEADER] = metadata
    return raw_response(b"".join(written), headers)


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
