"""The interface of a model family, and the plan of a GGUF file.

A family is a module with one class. It reads only headers and small files: `plan` decides everything about the GGUF file
before any weight is read, so that every mistake in a checkpoint is found before the work begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeembed.engine.classes import LABELS_KEY
from edgeembed.engine.interface import Task
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.views import TensorSource


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the GGUF file: its name there, its source, and whether it is stored as F32 in any case."""

    name: str
    source: TensorSource
    keep_f32: bool = False


@dataclass(frozen=True)
class ModelPlan:
    """The content of a GGUF file, except `general.*` and our own keys."""

    architecture: str
    dimensions: int
    """Length of a vector; the hidden size for rerankers and classifiers."""
    pooling: str
    """mean, cls or last; rank for rerankers and classifiers, which compute scores."""
    metadata: Metadata
    """Keys of the architecture and the tokenizer."""
    tensors: Sequence[PlannedTensor]
    prompts: Mapping[str, str] | None = None
    """As `prompts.read_prompts` returns them; for rerankers the template `rerank` (with "{instruction}", "{query}" and
    "{document}"). None: an embedder has those of the checkpoint, a reranker has none. Stored as `edgeembed.prompt.*`."""
    matryoshka: tuple[int, int] | None = None
    """Smallest and largest length that vectors may be truncated to. Stored as `edgeembed.matryoshka.min/max`."""

    @property
    def task(self) -> Task:
        """What the model computes."""
        if self.pooling != "rank":
            return "embed"
        return "classify" if LABELS_KEY in self.metadata else "rerank"


class Family(Protocol):
    """Plans GGUF files for checkpoints of some architectures."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names in config.json's `architectures` that this family supports."""
        ...

    @property
    def model_types(self) -> tuple[str, ...]:
        """Values of `model_type` that this family supports, for checkpoints without `architectures`."""
        ...

    @property
    def followed_code(self) -> tuple[str, ...]:
        """Code of model makers that this family follows: the full names in config.json's `auto_map`, such as
        `nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel`, and `modeling_hf_nomic_bert.NomicBertModel`
        where fine-tunes have a copy of the file. Such code is never run. Another name is refused, and so must be each
        key and tensor that `plan` does not know: code of the same name may have been changed."""
        ...

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate the checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        ...
