"""What a model family tells the converter.

A family is one module with one class. It reads nothing but headers and small files: `plan` decides everything about the GGUF
file before a weight is read, so that every mistake in a checkpoint is found before work begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.views import TensorSource


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the GGUF file: its name there, where its values come from, and whether it stays F32."""

    name: str
    source: TensorSource
    keep_f32: bool = False


@dataclass(frozen=True)
class ModelPlan:
    """All that goes into the GGUF file, except `general.*` and our own keys."""

    architecture: str
    dimensions: int
    """Length of a vector; of a reranker, the model's hidden size."""
    pooling: str
    """mean, cls, last; rank for a reranker, which gives scores."""
    metadata: Metadata
    """Keys of the architecture and the tokenizer."""
    tensors: Sequence[PlannedTensor]
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What is put around a text: templates under `query` and `document` ("{text}", "{instruction}"), the default under
    `instruction`; for a reranker its template under `rerank` ("{instruction}", "{query}", "{document}"). Stored as
    `edgeembed.prompt.*`."""
    matryoshka: tuple[int, int] | None = None
    """Least and largest vector length that the model was trained to be cut to. Stored as `edgeembed.matryoshka.min/max`."""


class Family(Protocol):
    """Turns checkpoints of some architectures into plans."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names in config.json's `architectures` that this family converts."""
        ...

    @property
    def model_types(self) -> tuple[str, ...]:
        """Names in `model_type`, for checkpoints that have no `architectures`."""
        ...

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Check the checkpoint and plan its GGUF file. Raises ConversionError."""
        ...
