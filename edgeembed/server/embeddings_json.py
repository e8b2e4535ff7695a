"""The answer of POST /v1/embeddings as JSON.

An answer from memory alone is kept as it was written, under the digest of its request's body: a body that comes again is
answered without being parsed (see `edgeembed.server.fast_path`). Turning numbers into digits costs more than everything else
that a hit needs.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import orjson

from edgeembed.cache import StoredResponse
from edgeembed.inference.postprocess import Matrix, base64_rows
from edgeembed.inference.service import EmbeddingService, EmbedResult

Encoding = Literal["float", "base64"]

MOST_BODY_BYTES = 16 * 1024
"""Longer bodies are read each time: they are no frequent queries."""


def known_answer(service: EmbeddingService, body: bytes) -> bytes | None:
    """Give the answer, as JSON, to a body that was answered from memory before, if that would happen again."""
    cache = service.cache
    if cache is None or len(body) > MOST_BODY_BYTES:
        return None
    answer = cache.responses.get(hashlib.sha256(body).digest())
    if answer is None or answer.version != service.registry.version or cache.get_hot(answer.keys, answer.label) is None:
        return None
    service.count(answer.model, len(answer.keys))
    return answer.body


def write_answer(service: EmbeddingService, body: bytes, result: EmbedResult, encoding: Encoding) -> bytes:
    """Write OpenAI's answer to a body: a list of embeddings, the model's name, the tokens used."""
    written = _written(result, encoding)
    if result.hot is not None and service.cache is not None and len(body) <= MOST_BODY_BYTES:
        service.cache.responses.put(
            hashlib.sha256(body).digest(),
            StoredResponse(written, tuple(result.keys), result.hot, result.model.key, service.registry.version),
        )
    return written


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
