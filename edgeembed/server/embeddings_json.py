"""OpenAI's answer to POST /v1/embeddings as JSON. Turning numbers into digits is most of the work of a cache hit."""

from __future__ import annotations

from typing import Literal

import orjson

from edgeembed.inference.postprocess import Matrix, base64_rows
from edgeembed.inference.requests import EmbedResult

Encoding = Literal["float", "base64"]


def write_embeddings(result: EmbedResult, encoding: Encoding) -> bytes:
    """Write the answer: a list of embeddings, the model's name, the tokens used."""
    rows = enumerate(_rows(result.vectors, encoding))
    tokens = sum(row.tokens for row in result.rows)
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % (index, row) for index, row in rows),
        orjson.dumps(result.model.name),
        tokens,
        tokens,
    )


def _rows(vectors: Matrix, encoding: Encoding) -> list[bytes]:
    if encoding == "base64":
        return [b'"%b"' % row.encode() for row in base64_rows(vectors)]
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in vectors]
