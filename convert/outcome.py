"""What the tensors of a converted file are: its type as a whole, and sentences about those that could not take it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.quantization import FALLBACK, block_of, block_values, kinds_of
from edgeembed_convert.writer import OutputTensor


def describe_fallbacks(outputs: Sequence[OutputTensor], wanted: str) -> list[str]:
    """Return a sentence for each row length of tensors that could not take the wanted type."""
    names: dict[int, list[str]] = defaultdict(list)
    for output in outputs:
        if output.type == FALLBACK != wanted:
            names[output.source.shape[-1]].append(output.name)
    return [
        f"{len(found)} tensors with rows of {length} values are {FALLBACK}: {wanted} needs a multiple of"
        f" {block_values(wanted)} ({', '.join(found)})"
        for length, found in names.items()
    ]


def effective_type(outputs: Sequence[OutputTensor], wanted: str) -> str:
    """Return the type of most values, tensors that are always F32 aside, so that the file's type is not misleading."""
    values = Counter[str]()
    for output in outputs:
        if output.type != "F32":
            values[output.type] += output.source.size
    return values.most_common(1)[0][0] if values else wanted


def stays_f32(tensor: PlannedTensor) -> bool:
    return tensor.keep_f32 or len(tensor.source.shape) < 2


def describe_types(plan: ModelPlan, wanted: str, types: Mapping[str, str]) -> tuple[list[str], str]:
    """Return sentences about tensors of other types than wanted, and the type of most values, for the tensors' types."""
    kinds, block = kinds_of(wanted), block_of(wanted)
    values = Counter[str]()
    others: dict[int, Counter[str]] = defaultdict(Counter)
    for tensor in plan.tensors:
        length = tensor.source.shape[-1]
        # The token embeddings have a type of their own, which would dominate the count in small models.
        if not stays_f32(tensor) and tensor.name != "token_embd.weight":
            values[types[tensor.name]] += tensor.source.size
        if not stays_f32(tensor) and length % block:
            others[length][types[tensor.name]] += 1
    belongs = sum(values[kind] for kind in kinds)
    effective = wanted if 2 * belongs >= values.total() else values.most_common(1)[0][0]
    return [
        f"{found.total()} tensors with rows of {length} values cannot be {wanted}, which needs a multiple of"
        f" {block}: " + ", ".join(f"{count} are {kind}" for kind, count in found.most_common())
        for length, found in others.items()
    ], effective
