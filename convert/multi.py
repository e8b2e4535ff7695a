"""The projection that makes a vector of each token, for late interaction, which our engine computes.

ColBERT checkpoints (`late_interaction`), and FlagEmbedding's colbert_linear.pt beside bge-m3, whose first token has none.
"""

from __future__ import annotations

from edgeembed.engine.dense import DenseHead
from edgeembed.engine.late_interaction import PREFIX, LateInteraction
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.dense import dense_modules_of_tokens, layer_of
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.late_interaction import MASK, STANFORD_WEIGHT, LateSettings, reading_of
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.pickled import read_linear

COLBERT_FILE = "colbert_linear.pt"
_MASKED = {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "eurobert"}
"""Architectures of which our engine can hide tokens from attention (`edgeembed.engine.llama.expansion_mask`)."""


def read_multi(checkpoint: Checkpoint, plan: ModelPlan) -> Metadata | None:
    """Return the keys for late interaction: how texts are read, and the projection of their tokens. None if there is none.

    Raises ConversionError.
    """
    found = _read_colbert(checkpoint, checkpoint.late, plan) if checkpoint.late else _read_beside(checkpoint, plan)
    if found is None:
        return None
    reading, projection = found
    return {**reading.metadata(), **projection.metadata(PREFIX)}


def _read_colbert(checkpoint: Checkpoint, settings: LateSettings, plan: ModelPlan) -> tuple[LateInteraction, DenseHead]:
    reading = reading_of(settings, checkpoint.model_folder)
    _check_expansion(settings, plan)
    return reading, _projection(checkpoint, settings, plan.dimensions)


def _read_beside(checkpoint: Checkpoint, plan: ModelPlan) -> tuple[LateInteraction, DenseHead] | None:
    """Read FlagEmbedding's projection beside a model with dense vectors."""
    file = checkpoint.folder / COLBERT_FILE
    if not file.is_file() or plan.pooling in ("rank", "none"):
        return None
    weight, bias = read_linear(file)
    if len(weight.shape) != 2 or weight.shape[1] != plan.dimensions or bias.shape != weight.shape[:1]:
        raise ConversionError(
            f"{file}: weight and bias have the shapes {list(weight.shape)} and {list(bias.shape)}, but a token's state has "
            f"{plan.dimensions} numbers"
        )
    return LateInteraction(first=1, score="mean"), DenseHead([layer_of(weight, bias)])


def _check_expansion(settings: LateSettings, plan: ModelPlan) -> None:
    if settings.expands and not settings.attended and plan.architecture not in _MASKED:
        raise ConversionError(
            f"{settings.file}: queries are expanded by tokens that the others must not attend to, which cannot be computed "
            f"for the architecture {plan.architecture}; set do_query_expansion to false to convert the model without it"
        )


def _projection(checkpoint: Checkpoint, settings: LateSettings, width: int) -> DenseHead:
    """Return the layers that make a token's vector of its state. Raises ConversionError."""
    kinds = [kind.rpartition(".")[2] for kind, _ in checkpoint.modules or [] if kind != MASK]
    folders = [folder for kind, folder in checkpoint.modules or [] if kind.rpartition(".")[2] == "Dense"]
    if folders:
        if kinds not in (wanted := ["Transformer", *["Dense"] * len(folders)], [*wanted, "Normalize"]):
            raise ConversionError(f"{checkpoint.modules_file}: modules {', '.join(kinds)}; expected {', '.join(wanted)}")
        return dense_modules_of_tokens(folders, width)
    tensor = checkpoint.weights.tensors.get(STANFORD_WEIGHT)
    if tensor is None or len(tensor.shape) != 2 or tensor.shape[1] != width:
        shape = "missing" if tensor is None else list(tensor.shape)
        raise ConversionError(
            f"{settings.file}: no Dense module, and {STANFORD_WEIGHT} among the weights is {shape}; expected a matrix with "
            f"rows of {width}"
        )
    return DenseHead([layer_of(tensor, None)])
