"""Requests to an OpenAI-compatible server and its responses, with the quirks of today's servers.

References: the OpenAI API documentation, "Create embeddings"; SGLang's serving_embedding.py, which returns floats whatever
`encoding_format` asks for, and flat errors; vLLM's protocol.py, whose error codes are integers; Ollama's openai.go; FastAPI,
whose own errors are in `detail`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import orjson

from edgeembed.engine.interface import Float32Row

RowEncoding = Literal["base64", "float"]

_LONGEST_MESSAGE = 300
"""Characters of upstream's error message that are passed on."""
_CONTEXT_FIELDS = ("max_model_len", "context_tokens", "context_length")
"""Fields with the longest text: of vLLM and SGLang, edgeembed, others; llama-server has it in `meta.n_ctx`."""
_TOO_LONG = re.compile(
    r"too (large|long)|longer than|context (length|size|window)|exceeds the (maximum|available)", re.IGNORECASE
)


class UnreadableAnswerError(Exception):
    """The response does not fit the request; the message says why."""


class UpstreamAnswer(NamedTuple):
    """The rows of texts, in order. tokens: of all texts together, None where the server does not count."""

    rows: list[Float32Row]
    tokens: int | None


class _Item(msgspec.Struct):
    embedding: str | list[float]
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Body(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


_body_decoder = msgspec.json.Decoder(_Body)


def write_body(model: str, texts: Sequence[str], encoding: RowEncoding) -> bytes:
    """Return the body of POST /embeddings."""
    return orjson.dumps({"model": model, "input": texts, "encoding_format": encoding})


def read_answer(body: bytes, texts: int) -> UpstreamAnswer:
    """Return the rows in a response to `texts` texts, base64 or floats, in any order. Raises UnreadableAnswerError."""
    try:
        answer = _body_decoder.decode(body)
    except msgspec.DecodeError as error:  # msgspec.ValidationError is one
        raise UnreadableAnswerError(f"not a list of embeddings: {error}") from error
    if len(answer.data) != texts:
        raise UnreadableAnswerError(f"{texts} texts were sent, but {len(answer.data)} rows came back")
    rows: list[Float32Row | None] = [None] * texts
    for place, item in enumerate(answer.data):
        index = place if item.index is None else item.index
        if not 0 <= index < texts or rows[index] is not None:
            # Such a row could belong to any text: better none than a wrong one.
            raise UnreadableAnswerError(f"the index {index} occurs twice or is out of range")
        rows[index] = _row(item.embedding)
    found = [row for row in rows if row is not None]
    if len({len(row) for row in found}) > 1:
        raise UnreadableAnswerError("the rows differ in length")
    usage = answer.usage
    return UpstreamAnswer(found, (usage.prompt_tokens or usage.total_tokens) if usage else None)


def _row(embedding: str | list[float]) -> Float32Row:
    if isinstance(embedding, str):
        try:
            raw = base64.b64decode(embedding, validate=True)
            row = np.frombuffer(raw, dtype="<f4").astype(np.float32)
        except ValueError as error:
            raise UnreadableAnswerError(f"a row is not base64 of float32: {error}") from error
    else:
        row = np.array(embedding, dtype=np.float32)
    if not len(row):
        raise UnreadableAnswerError("a row is empty")
    return row


def error_message(body: bytes, status: int) -> str:
    """Return the message in an error response, whatever its shape."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = body.decode("utf-8", "replace").strip()
    found = _message_in(said) or f"status {status}"
    found = " ".join(found.split())
    return found if len(found) <= _LONGEST_MESSAGE else f"{found[:_LONGEST_MESSAGE]}…"


def _message_in(said: Any) -> str:
    match said:
        case str():
            return "" if said.startswith("<") else said  # an HTML page of a proxy
        case {"error": str(message)} if message:
            return message
        case {"error": {"message": str(message)}}:
            return message
        case {"message": str(message)}:
            return message
        case {"detail": str(message)}:
            return message
        case {"detail": [{"msg": str(message)}, *_]}:
            return message
    return ""


def says_too_long(message: str) -> bool:
    """Return whether an error is about the length of a text: llama-server and Ollama use status 500 for it, too."""
    return _TOO_LONG.search(message) is not None


def model_names(body: bytes) -> list[dict[str, Any]]:
    """Return the objects of GET /models that have an id. Raises UnreadableAnswerError."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswerError("its list of models is not JSON") from error
    data = said.get("data") if isinstance(said, dict) else None
    if data is None and isinstance(said, dict) and "data" in said:
        return []  # Ollama without models
    if not isinstance(data, list):
        raise UnreadableAnswerError("it does not list its models")
    return [item for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]


def own_names(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one name per model: an edgeembed lists each of its models under several."""
    names = [str(item["id"]) for item in described]
    return [
        name
        for name, item in zip(names, described, strict=True)
        if item.get("owned_by") != "edgeembed"
        or not ("root" in item or "input_type" in item or name.removesuffix(f":{item.get('type')}") in {*names} - {name})
    ]


def context_tokens(described: Mapping[str, Any]) -> int:
    """Return the longest text of a model in tokens, from its object in the list of models; 0 if that does not say."""
    meta = described.get("meta")
    values = [*(described.get(name) for name in _CONTEXT_FIELDS), meta.get("n_ctx") if isinstance(meta, dict) else None]
    for value in values:
        if type(value) is int and value > 0:
            return value
    return 0


def spread(total: int | None, texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text, at least one: servers return only the sum, which is divided by the texts' lengths.

    total: None where the server does not count; then a token is taken for four characters.
    """
    lengths = [len(text) + 1 for text in texts]
    if total is None:
        return [tokens_about(text) for text in texts]
    everything, assigned, seen, shares = sum(lengths), 0, 0, []
    for length in lengths:
        seen += length
        share = max(1, round(total * seen / everything) - assigned)
        assigned += share
        shares.append(share)
    return shares


def tokens_about(text: str) -> int:
    """Estimate the tokens of a text for a server that does not count them: a token for four characters."""
    return 1 + (len(text) + 1) // 4
