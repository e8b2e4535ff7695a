"""Adapters that are stored among the weights, one for each task, as in jina-embeddings-v3.

The makers' code (XLMRobertaLoRA) puts two matrices for each task beside each matrix, as parametrisations of torch:
`X.parametrizations.weight.original`, and `X.parametrizations.weight.0.lora_A` and `lora_B`, whose first axis is the task.
config.json has the names of the tasks and the scale. One of them is merged here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.low_rank import adapted
from edgeembed_convert.tensors import StoredTensor
from edgeembed_convert.weights import Weights

_OF_TRANSFORMERS = "jina_embeddings_v3"
_ORIGINAL = ".parametrizations.weight.original"
_LORA = ".parametrizations.weight.0.lora_"
_EMBEDDINGS = "embeddings.weight"
"""Ends the names of tables, of which lora_A belongs to the rows; of linear layers, lora_B does."""


def tasks_of(config: dict[str, Any], file: Path) -> list[str]:
    """Return the names of the adapters that are stored among the weights. file: of `config`. Raises ConversionError."""
    if config.get("model_type") == _OF_TRANSFORMERS:
        return []  # its adapters are peft's
    tasks = config.get("lora_adaptations") or []
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks) or len(set(tasks)) != len(tasks):
        raise ConversionError(f"{file}: lora_adaptations = {tasks!r}; expected a list of names")
    if tasks and config.get("load_trained_adapters") is not True:
        raise ConversionError(
            f"{file}: lora_adaptations without load_trained_adapters = true: the model would get new, untrained adapters"
        )
    return tasks


def with_task(weights: Weights, config: dict[str, Any], file: Path, task: str) -> Weights:
    """Return the weights with the adapter of a task merged. Raises ConversionError if they do not fit to config.json."""
    tasks = tasks_of(config, file)
    alpha, rank = config.get("lora_alpha", 1), config.get("lora_rank")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ConversionError(f"{file}: lora_rank = {rank!r}, lora_alpha = {alpha!r}; expected numbers")
    tensors = weights.tensors
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith(_ORIGINAL):
            found |= {} if _LORA in name else {name: tensor}
            continue
        module = name.removesuffix(_ORIGINAL)
        pair = [tensors.get(f"{module}{_LORA}{part}") for part in "AB"]
        if f"{module}.weight" in tensors or None in pair:
            raise ConversionError(f"{tensor.file}: tensor {name} has no lora_A and lora_B, or is stored twice")
        first, second = (_of_task(part, len(tasks), tasks.index(task)) for part in pair if part)
        left, right = (first, second) if f"{module}.weight".endswith(_EMBEDDINGS) else (second, first)
        merged = adapted(tensor, left, right, alpha / rank)
        if merged.rank != rank:
            raise ConversionError(
                f"{tensor.file}: the adapters of {module} have the rank {merged.rank}, not lora_rank {rank}"
            )
        found[f"{module}.weight"] = replace(merged, name=f"{module}.weight")
    lost = [name for name in tensors if _LORA in name and f"{name.partition('.parametrizations.')[0]}.weight" not in found]
    if lost or len(found) == len(tensors):
        raise ConversionError(
            f"{file}: lora_adaptations, but {f'{lost[0]} belongs to no matrix' if lost else 'the weights have no adapters'}"
        )
    return Weights(weights.files, found)


def renamed_for_peft(weights: Weights, config: dict[str, Any]) -> Weights:
    """Return the weights of jina-embeddings-v3-hf under the names that its adapters mean; those of other models unchanged.

    Its adapters name the modules of transformers' class, but its file has the names of the makers' code, with queries, keys
    and values in one matrix.
    """
    if config.get("model_type") != _OF_TRANSFORMERS:
        return weights
    found: dict[str, StoredTensor] = {}
    for name, tensor in weights.tensors.items():
        fused = ".mixer.Wqkv." in name and tensor.shape and tensor.shape[0] % 3 == 0
        if not fused:
            found[name.replace(".mixer.out_proj.", ".self_attn.o_proj.")] = tensor
            continue
        size = tensor.shape[0] // 3
        for number, part in enumerate("qkv"):
            own = name.replace(".mixer.Wqkv.", f".self_attn.{part}_proj.")
            found[own] = _rows(tensor, number * size, (number + 1) * size)
    return Weights(weights.files, found)


def _rows(tensor: StoredTensor, first: int, end: int) -> StoredTensor:
    """Return some rows of a matrix, or some values of a bias."""
    if len(tensor.shape) == 1:
        return replace(tensor, shape=(end - first,), offset=tensor.offset + first * tensor.item_bytes)
    return tensor.row_range(first, end)


def _of_task(tensor: StoredTensor, tasks: int, number: int) -> StoredTensor:
    """Return the part of a 3-D tensor that belongs to a task."""
    if len(tensor.shape) != 3 or tensor.shape[0] != tasks:
        raise ConversionError(
            f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}; expected 3-D, for {tasks} tasks"
        )
    size = math.prod(tensor.shape[1:]) * tensor.item_bytes
    return replace(tensor, shape=tensor.shape[1:], offset=tensor.offset + number * size)
