"""Answers with several rows for each text: cut, scaled and written in parts, as they may be hundreds of times larger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

import orjson
from aiohttp import hdrs, web

from edgeembed.engine.interface import Output
from edgeembed.errors import RequestError
from edgeembed.inference.aside import LARGE, Aside
from edgeembed.inference.number_formats import Dtype, quantised
from edgeembed.inference.postprocess import Matrix, scaled_rows, unit_rows
from edgeembed.inference.requests import EmbedResult
from edgeembed.inference.service import check_outputs
from edgeembed.models.served_model import ServedModel
from edgeembed.server.responses import (
    BYTES_TYPE,
    JSON_TYPE,
    LARGE_BYTES,
    PART_BYTES,
    PartedResponse,
    json_bytes,
    raw_response,
)

_JSON_BYTES = 12
"""Of a number as JSON, about."""


def token_output(model: ServedModel, multi: bool | None) -> Output:
    """Return the output that has a row for each token: the vectors of a late-interaction head, or the hidden states.

    multi: whether the former is wanted; None: if the model has such a head. Raises WrongTaskError if it has none.
    """
    if multi:
        check_outputs(model, ["multi"], "multi_vector")
    return "multi" if multi or (multi is None and model.computes("multi")) else "tokens"


def check_width(result: EmbedResult, output: Output) -> None:
    """Raise RequestError if an output's rows have fewer numbers than the request asks for."""
    asked, width = result.dimensions, next(result.each(output)).shape[1]
    if asked is not None and asked > width:
        raise RequestError(
            f"dimensions is {asked}; these vectors of model {result.model.name!r} have {width} numbers", param="dimensions"
        )


def token_rows(result: EmbedResult, output: Output, norm: int, dimensions: int | None) -> Iterator[Matrix]:
    """Return an iterator of the rows of each text, cut to `dimensions` and divided by a norm; see `scaled_rows`."""
    return (_scaled(rows, dimensions, norm) for rows in result.each(output))


def _scaled(rows: Matrix, dimensions: int | None, norm: int) -> Matrix:
    if not len(rows):
        return rows[:, :dimensions]
    return unit_rows([*rows], dimensions) if norm == 2 else scaled_rows([*rows], dimensions, norm)


def json_rows(matrix: Matrix, dtype: Dtype = "float32") -> Iterator[bytes]:
    """Yield rows in a type as a JSON list, in pieces."""
    mark = b"["
    for row in quantised(matrix, dtype) if len(matrix) else ():
        yield mark + orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
        mark = b","
    yield b"]" if len(matrix) else b"[]"


def json_list(items: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """Yield a JSON list in pieces. items: the pieces of each item."""
    mark = b"["
    for item in items:
        yield mark
        yield from item
        mark = b","
    yield b"[]" if mark == b"[" else b"]"


def json_in_parts(aside: Aside, result: EmbedResult, pieces: Iterator[bytes], headers: dict[str, str]) -> web.Response:
    """Return a response with JSON that is written in pieces. What is large is written while it is sent."""
    if is_large(result.numbers):
        return PartedResponse(_parts(aside, pieces), {hdrs.CONTENT_TYPE: JSON_TYPE, **headers})
    return json_bytes(b"".join(pieces), headers)


def bytes_in_parts(
    aside: Aside, numbers: int, pieces: Iterator[bytes], length: int, headers: dict[str, str]
) -> web.Response:
    """Return a response with bytes, `length` in all, that are written in pieces; see `json_in_parts`."""
    headers = {hdrs.CONTENT_TYPE: BYTES_TYPE, **headers}
    if is_large(numbers):
        return PartedResponse(_parts(aside, pieces), {hdrs.CONTENT_LENGTH: str(length), **headers})
    return raw_response(b"".join(pieces), headers)


def is_large(numbers: int) -> bool:
    """Return whether an answer with so many numbers is written while it is sent."""
    return numbers * _JSON_BYTES > LARGE_BYTES


async def _parts(aside: Aside, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while part := await aside.run(LARGE + 1, _written, pieces):
        yield part


def _written(pieces: Iterator[bytes]) -> bytes:
    """Return the next pieces, about `PART_BYTES`; none at the end."""
    written, size = list[bytes](), 0
    for piece in pieces:
        written.append(piece)
        if (size := size + len(piece)) >= PART_BYTES:
            break
    return b"".join(written)
