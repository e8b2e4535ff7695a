"""The metadata of model files, for the dialects that describe models. Each file is read once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from edgeembed.engine.stand_ins import computed_as
from edgeembed.errors import HubError
from edgeembed.hub.gguf.file import Scalar
from edgeembed.hub.gguf.header import open_gguf
from edgeembed.models.served_model import ServedModel

_LONGEST_VALUE = 200
"""Longest value that is shown, in characters; templates and licence texts are longer."""


@dataclass(frozen=True)
class ModelCard:
    """A model file's description. Fields are None where the file has no value or cannot be read."""

    architecture: str | None = None
    parameters: int | None = None
    context_tokens: int | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """The file's key-value pairs, without arrays and long texts."""


class ModelCards:
    """The cards read so far."""

    def __init__(self) -> None:
        self._cards: dict[tuple[str, str], ModelCard] = {}

    async def of(self, model: ServedModel) -> ModelCard:
        """Return a model's card; the file is read in a thread."""
        card = self._cards.get(model.key)
        if card is None:
            try:
                card = await asyncio.to_thread(_read, model)
            except HubError:  # it is gone or damaged, which requests for vectors report
                return ModelCard()
            self._cards[model.key] = card
        return card


def _read(model: ServedModel) -> ModelCard:
    with open_gguf(model.path) as reader:
        head = reader.head()
        parameters = sum(math.prod(tensor.shape) for tensor in reader.tensors(head))
    architecture = head.values.get("general.architecture")
    context = head.values.get(f"{computed_as(str(architecture))}.context_length")
    return ModelCard(
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


CARDS = web.AppKey("cards", ModelCards)
