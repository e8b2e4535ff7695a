"""The answer of POST /v1/embeddings as JSON.

An answer from memory alone is kept as it was written: turning numbers into digits costs more than everything else that a hit
needs.
"""

from __future__ import annotations

from typing import Literal

import orjson

from edgeembed.cache import VectorCache
from edgeembed.service import EmbedResult
from edgeembed.vectors import Matrix, base64_rows

Encoding = Literal["float", "base64"]


def embeddings_json(result: EmbedResult, encoding: Encoding, cache: VectorCache | None) -> bytes:
    """Write OpenAI's answer: a list of embeddings, the model's name, the tokens used."""
    if not result.hot or cache is None:
        return _written(result, encoding)
    name = (encoding, result.dimensions, result.model.name, *result.keys)
    answer = cache.encodings.get(name)
    if answer is None:
        answer = _written(result, encoding)
        cache.encodings.put(name, answer)
    return answer


def _written(result: EmbedResult, encoding: Encoding) -> bytes:
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
