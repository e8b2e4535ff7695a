"""What a model family tells the converter.

A family is one module with one class. It reads nothing but headers and small files: `plan` decides everything about the GGUF
file before a weight is read, so that every mistake in a checkpoint is found before work begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.weights import StoredTensor


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the GGUF file: its name there, where its values come from, and whether it stays F32."""

    name: str
    source: StoredTensor
    keep_f32: bool = False


@dataclass(frozen=True)
class ModelPlan:
    """All that goes into the GGUF file, except `general.*` and our own keys."""

    architecture: str
    dimensions: int
    """Length of a vector."""
    pooling: str
    metadata: Metadata
    """Keys of the architecture and the tokenizer."""
    tensors: Sequence[PlannedTensor]


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
