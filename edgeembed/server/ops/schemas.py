"""Types of responses that are not built from structs, for the OpenAPI document.

Tests check real responses against them. A field with UNSET may be missing.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from edgeembed.common.status import ListedModel
from edgeembed.server.fields import TruncatedItem

Anything: TypeAlias = dict[str, Any]


class EmbeddingChunk(msgspec.Struct):
    """A window of a text: where it is, in characters, the tokens that were read, and its vector."""

    start: int
    end: int
    tokens: int
    embedding: list[float] | str


class EmbeddingItem(msgspec.Struct):
    """The vector of one text, of length 1; with `encoding_format: base64`, as little-endian float32.

    `chunks` is present with `long_text: chunks`; a text that is not too long is the only one of its own.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    chunks: list[EmbeddingChunk] | UnsetType = UNSET


class SparseEmbedding(msgspec.Struct):
    """The tokens of the vocabulary that have a weight, by id, ascending. `words`: their texts, with `sparse_words`."""

    indices: list[int]
    values: list[float]
    words: list[str] | UnsetType = UNSET


class OutputsItem(msgspec.Struct):
    """What a request wants of one text; see the fields of its body. A vector for each token is called `embeddings`, as in
    Jina's answers, if the request has Jina's field or route.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | UnsetType = UNSET
    sparse_embedding: SparseEmbedding | UnsetType = UNSET
    multi_embedding: list[list[float] | str] | UnsetType = UNSET
    embeddings: list[list[float] | str] | UnsetType = UNSET


class EmbeddingsUsage(msgspec.Struct):
    """The tokens of all texts after cutting, including those of prompts and special tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(msgspec.Struct):
    """The vectors in the order of the texts. `truncated` is present if a text was cut."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage
    truncated: list[TruncatedItem] | UnsetType = UNSET


class OutputsAnswer(msgspec.Struct):
    """The outputs in the order of the texts. `truncated` is present if a text was cut."""

    object: Literal["list"]
    data: list[OutputsItem]
    model: str
    usage: EmbeddingsUsage
    truncated: list[TruncatedItem] | UnsetType = UNSET


class ModelsAnswer(msgspec.Struct):
    """All names that a request may use."""

    object: Literal["list"]
    data: list[ListedModel]


class LiveAnswer(msgspec.Struct):
    """The daemon answers requests."""

    status: Literal["ok"]
