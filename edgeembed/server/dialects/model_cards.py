"""What model files say of themselves, for dialects that describe models. Read once for each file."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from edgeembed.errors import HubError
from edgeembed.hub.gguf.file import Scalar
from edgeembed.hub.gguf.header import open_gguf
from edgeembed.models.registry import ServedModel

_LONGEST_VALUE = 200
"""Characters of a value that is shown; templates and licence texts are longer."""


@dataclass(frozen=True)
class Card:
    """A model file's description. Fields are None where the file says nothing or cannot be read."""

    architecture: str | None = None
    parameters: int | None = None
    context_tokens: int | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Key-value pairs of the file, without arrays and long texts."""


class Cards:
    """The cards that were read so far."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Card] = {}

    async def of(self, model: ServedModel) -> Card:
        """Give a model's card; the file is read in a thread."""
        card = self._known.get(model.key)
        if card is None:
            try:
                card = await asyncio.to_thread(_read, model)
            except HubError:  # it is gone or damaged; whoever asks for vectors is told
                return Card()
            self._known[model.key] = card
        return card


def _read(model: ServedModel) -> Card:
    with open_gguf(model.path) as reader:
        head = reader.head()
        parameters = sum(math.prod(tensor.shape) for tensor in reader.tensors(head))
    architecture = head.values.get("general.architecture")
    context = head.values.get(f"{architecture}.context_length")
    return Card(
        architecture if isinstance(architecture, str) else None,
        parameters,
        context if isinstance(context, int) else None,
        {
            key: value
            for key, value in head.values.items()
            if not (isinstance(value, str) and len(value) > _LONGEST_VALUE)
            and not (isinstance(value, float) and not math.isfinite(value))
        },
    )


CARDS = web.AppKey("cards", Cards)
