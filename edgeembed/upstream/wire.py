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

from edgeembed.common.files import UNREADABLE_JSON
from edgeembed.engine.interface import Float32Row

RowEncoding = Literal["base64", "float"]

_LONGEST_MESSAGE = 300
"""Characters of upstream's error message that are passed on."""
_CONTEXT_FIELDS = ("max_model_len", "context_tokens", "context_length")
"""Fields with the longest text: of vLLM and SGLang, edgeembed, others; llama-server has it in `meta.n_ctx`."""
MOST_LIST_BYTES = 2 * 2**20
"""Of a list of models; the longest ones, of routers to many providers, have less than half of that."""
MOST_MODELS = 4096
_LONGEST_MODEL = 65_536
"""Bytes of a model's object; longer ones are left out."""
_LONGEST_NAME = 512
"""Characters of a model's name; longer ones are left out."""
MOST_DIMENSIONS = 16_384
"""Where the dimensions are not known yet."""
_BYTES_PER_NUMBER = 28
"""Of a number in an answer; base64 takes 6."""
_BYTES_BESIDE_NUMBERS = 65_536
_MOST_TOKENS = 2**40
"""A count beyond that is none."""
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
    embedding: msgspec.Raw
    index: int | None = None


class _Named(msgspec.Struct, gc=False):
    id: str


class _NamedModels(msgspec.Struct):
    data: list[_Named] | None


class _Models(msgspec.Struct):
    data: list[msgspec.Raw] | None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Body(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


_body_decoder = msgspec.json.Decoder(_Body)
_names_decoder = msgspec.json.Decoder(_NamedModels)
_models_decoder = msgspec.json.Decoder(_Models)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_row_decoder = msgspec.json.Decoder(str | list[float])


def write_body(model: str, texts: Sequence[str], encoding: RowEncoding) -> bytes:
    """Return the body of POST /embeddings."""
    return orjson.dumps({"model": model, "input": texts, "encoding_format": encoding})


def most_bytes(texts: int, dimensions: int | None) -> int:
    """Return the largest size of an answer with one row for each text. dimensions: None while they are unknown."""
    return texts * ((dimensions or MOST_DIMENSIONS) * _BYTES_PER_NUMBER + 1024) + _BYTES_BESIDE_NUMBERS


def read_answer(body: bytes, texts: int) -> UpstreamAnswer:
    """Return the rows in a response to `texts` texts, base64 or floats, in any order. Raises UnreadableAnswerError."""
    if body.count(b'"embedding"') > 2 * texts:  # "object": "embedding" stands beside the row
        raise UnreadableAnswerError(f"{texts} texts were sent, but more rows came back")
    try:
        answer = _body_decoder.decode(body)
    except UNREADABLE_JSON as error:
        raise UnreadableAnswerError(f"not a list of embeddings: {error}") from error
    if len(answer.data) != texts:
        raise UnreadableAnswerError(f"{texts} texts were sent, but {len(answer.data)} rows came back")
    if any(item.index is None for item in answer.data) and any(item.index is not None for item in answer.data):
        raise UnreadableAnswerError("some rows have an index, others have none")
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
    tokens = (usage.prompt_tokens or usage.total_tokens) if usage else None
    return UpstreamAnswer(found, tokens if tokens is None or 0 < tokens <= _MOST_TOKENS else None)


def _row(raw_embedding: msgspec.Raw) -> Float32Row:
    written = bytes(raw_embedding)
    if written.count(b",") >= MOST_DIMENSIONS:
        raise UnreadableAnswerError(f"a row has more than {MOST_DIMENSIONS} numbers")
    try:
        embedding = _row_decoder.decode(written)
    except UNREADABLE_JSON as error:
        raise UnreadableAnswerError(f"a row is neither base64 nor a list of numbers: {error}") from error
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
    """Return the message in an error response, whatever its shape; it may have been cut."""
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
    """Return the objects of GET /models. Raises UnreadableAnswerError."""
    try:
        # First without making a Python object of each value: a small list can have very many.
        if len(_names_decoder.decode(body).data or []) > MOST_MODELS:
            raise UnreadableAnswerError(f"it lists more than {MOST_MODELS} models")
        listed = _models_decoder.decode(body).data or []  # null: Ollama without models
        models = [_object_decoder.decode(item) for item in listed if len(bytes(item)) <= _LONGEST_MODEL]
    except UNREADABLE_JSON as error:
        raise UnreadableAnswerError("it does not list its models") from error
    return [model for model in models if len(model["id"]) <= _LONGEST_NAME]


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
        if type(value) is int and 0 < value <= _MOST_TOKENS:
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
