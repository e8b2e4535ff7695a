"""What routes answer that write their JSON from parts or from dicts: types for the OpenAPI document.

Tests hold real answers against them. A field with UNSET may be missing.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from edgeembed.common.status import ListedModel

Anything: TypeAlias = dict[str, Any]


class EmbeddingItem(msgspec.Struct):
    """One text's vector, of length 1; with `encoding_format: base64` as little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(msgspec.Struct):
    """Tokens of all texts as far as they were read, special ones and the prompt's included."""

    prompt_tokens: int
    total_tokens: int


class TruncatedItem(msgspec.Struct):
    """A text that was cut: how many of its tokens were read, of how many."""

    index: int
    tokens: int
    full_tokens: int


class EmbeddingsAnswer(msgspec.Struct):
    """Vectors in the order of the texts; `truncated` is there when something was cut."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage
    truncated: list[TruncatedItem] | UnsetType = UNSET


class ModelsAnswer(msgspec.Struct):
    """Every name that a request may use."""

    object: Literal["list"]
    data: list[ListedModel]


class LiveAnswer(msgspec.Struct):
    """The server's loop runs."""

    status: Literal["ok"]
