"""Adapters of peft: found in a checkpoint, chosen, and merged into its weights.

Formats: huggingface/peft, "Checkpoint format", and its LoraConfig. A key of adapter_config.json is obeyed, or known not to
change the result, or refused: an adapter that is half understood gives vectors of no model.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.low_rank import adapted
from edgeembed_convert.pickled import read_pickled
from edgeembed_convert.tensors import StoredTensor
from edgeembed_convert.weights import Weights, read_header

CONFIG = "adapter_config.json"
FLAG = "--merge-adapter"
_ADAPTER = re.compile(
    rf"{re.escape(CONFIG)}|(pytorch_)?adapters?(_model)?\.(safetensors|bin|pt|npz)|.*lora.*\.(safetensors|bin|pt)",
    re.IGNORECASE,
)
_DEPTH = 3
"""Levels of folders that are searched for adapters, as in adapters/retrieval/."""

# Keys of LoraConfig that say where an adapter comes from, which layers it was trained for (its tensors say so, too), or how.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_dropout", "loftq_config", "megatron_core", "peft_version", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip
_OBEYED = {
    "alpha_pattern", "fan_in_fan_out", "lora_alpha", "modules_to_save", "peft_type", "r", "rank_pattern", "use_rslora",
}  # fmt: skip
# Other starts than these also change the base weights.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_BASE = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<part>[AB])(\.(?!bias$)[^.]+)?(\.weight)?")


def find_adapters(folder: Path) -> list[Path]:
    """Return the folders with an adapter, the checkpoint's own or below it, sorted by path.

    Raises ConversionError for a file that belongs to an adapter of another library.
    """
    files = list(_files(folder))
    found = sorted({file.parent for file in files if file.name == CONFIG})
    for file in files:
        if file.parent not in found:
            raise ConversionError(
                f"{file}: this is an adapter, but not in peft's format: there is no {CONFIG} beside it. Vectors without it "
                "would be those of another model. Merge it into the weights and convert the result; if the model does not "
                "use it, move it out of the folder"
            )
    return found


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH else []
        yield from (Path(place) / name for name in sorted(files) if _ADAPTER.fullmatch(name))


def refuse_adapter_alone(folder: Path, source: str) -> None:
    """Raise ConversionError for an adapter without its model. source: what the user called the folder."""
    if not (folder / CONFIG).is_file() or any((folder / name).is_file() for name in ("config.json", "modules.json")):
        return
    base = _base_of(folder / CONFIG)
    raise ConversionError(
        f"{folder / CONFIG}: this is an adapter{f' of {base}' if base else ''}, and the model is not beside it. Convert "
        f"both together: edgeembed convert {shlex.quote(base or 'MODEL')} {FLAG} {shlex.quote(source)}"
    )


def choose_adapter(folder: Path, tasks: Sequence[str], wanted: str | None, source: str) -> Path | str | None:
    """Return the adapter that is to be merged: its folder, or its name among `tasks`; None if there is none.

    tasks: names of adapters that are stored among the weights. wanted: the name of an adapter in the checkpoint, or the path
    of another. source: what the user called the checkpoint.
    Raises ConversionError if the checkpoint has adapters and none is chosen, or if the chosen one does not exist.
    """
    found = find_adapters(folder)
    named: dict[str, Path | str] = {path.name: path for path in found if path != folder}
    named |= {task: task for task in tasks}
    command = f"edgeembed convert {shlex.quote(source)} {FLAG}"
    if wanted is None:
        if named:
            raise ConversionError(
                f"{folder}: the checkpoint has adapters, each of which makes a different model: {', '.join(named)}. "
                f"Choose one: {command} {next(iter(named))}"
            )
        if found:
            raise ConversionError(
                f"{folder / CONFIG}: the checkpoint has an adapter. Vectors without it would be those of another model. "
                f"Merge it: {command} {shlex.quote(source)}; if the model does not use it, move it out of the folder"
            )
        return None
    if wanted in named:
        return named[wanted]
    path = folder if wanted == source else Path(wanted)
    if (path / CONFIG).is_file():
        return path
    if path.is_file() and path.name in (CONFIG, "adapter_model.safetensors"):
        return path.parent
    raise ConversionError(
        f"{FLAG} {wanted}: no adapter of the checkpoint has this name"
        + (f" (there are {', '.join(named)})" if named else "")
        + f", and {path / CONFIG} does not exist"
    )


def _base_of(file: Path) -> str | None:
    base = read_json(file).get("base_model_name_or_path")
    return base if isinstance(base, str) else None


# --- merging ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Config:
    """What adapter_config.json says about the product of an adapter's two matrices."""

    file: Path
    rank: int
    alpha: float
    ranks: Mapping[str, Any]
    """By a regular expression for the end of a module's name."""
    alphas: Mapping[str, Any]
    rank_stabilised: bool
    swapped: bool
    """Whether linear layers are stored as (inputs, outputs)."""
    saved: tuple[str, ...]
    """Ends of the names of modules that are stored as a whole."""

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of a module's product. Raises ConversionError if its rank is not the configured one."""
        wanted = _by_pattern(self.ranks, module, self.rank)
        if wanted != rank:
            raise ConversionError(f"{self.file}: the rank of {module} is {wanted!r}, but its tensors have {rank}")
        if rank == 0:
            raise ConversionError(f"{self.file}: the rank of {module} is 0; expected a positive integer")
        alpha = _by_pattern(self.alphas, module, self.alpha)
        if not _is_number(alpha):
            raise ConversionError(f"{self.file}: the alpha of {module} is {alpha!r}; expected a number")
        return float(alpha) / (math.sqrt(rank) if self.rank_stabilised else rank)


def merged(weights: Weights, folder: Path) -> Weights:
    """Return the weights with an adapter merged. folder: that of the adapter.

    Raises ConversionError if it does more than peft's LoRA, or does not belong to these weights.
    """
    config = _read_config(folder / CONFIG)
    file, stored = _open(folder)
    tensors = dict(weights.tensors)
    pairs: dict[tuple[str, bool], dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        plain = name.removeprefix(_BASE)
        if match := _LORA.fullmatch(plain):
            pair = pairs.setdefault((match["module"], bool(match["kind"])), {})
            if pair.setdefault(match["part"], tensor) is not tensor:
                raise ConversionError(f"{file}: {pair[match['part']].name} and {name} belong to the same module")
            continue
        module = plain.rpartition(".")[0].replace(".modules_to_save", "")
        if not any(module == end or module.endswith(f".{end}") for end in config.saved):
            raise ConversionError(
                f"{file}: tensor {name} is neither LoRA nor of a module in modules_to_save of {config.file}"
            )
        own = _name_in(weights, f"{module}.{plain.rpartition('.')[2]}", file)
        if tensor.shape != tensors[own].shape:
            raise ConversionError(
                f"{file}: tensor {name} has the shape {list(tensor.shape)}, but {own} of the model has "
                f"{list(tensors[own].shape)}"
            )
        tensors[own] = tensor
    if not pairs:
        raise ConversionError(f"{file}: there is no LoRA tensor in it")
    for (module, embeds), pair in pairs.items():
        if len(pair) != 2:
            raise ConversionError(f"{file}: lora_{'B' if 'A' in pair else 'A'} of {module} is missing")
        own = _name_in(weights, f"{module}.weight", file)
        rank = pair["A"].shape[0] if pair["A"].shape else 0
        scale = config.scale(module, rank)
        tensors[own] = adapted(tensors[own], pair["B"], pair["A"], scale, swapped=embeds or config.swapped)
    return Weights([*weights.files, file], tensors)


def _open(folder: Path) -> tuple[Path, dict[str, StoredTensor]]:
    for name, read in (("adapter_model.safetensors", read_header), ("adapter_model.bin", read_pickled)):
        if (folder / name).is_file():
            return folder / name, read(folder / name)
    raise ConversionError(f"{folder}: contains neither adapter_model.safetensors nor adapter_model.bin")


def _name_in(weights: Weights, name: str, file: Path) -> str:
    """Return the name of a tensor in the weights, which may have more or less in front. Raises ConversionError."""
    if name in weights.tensors:
        return name
    found = [own for own in weights.tensors if own.endswith(f".{name}") or name.endswith(f".{own}")]
    if len(found) != 1:
        raise ConversionError(
            f"{file}: the adapter changes {name}, which {'is not one tensor' if found else 'is no tensor'} of the model: it "
            "was made for another one"
        )
    return found[0]


def _read_config(file: Path) -> _Config:
    content = read_json(file)
    if content.get("peft_type") != "LORA":
        raise ConversionError(
            f"{file}: peft_type = {content.get('peft_type')!r}; only LORA can be merged here. Merge it with peft "
            "(merge_and_unload), if it can"
        )
    if content.get("init_lora_weights", True) not in _STARTS:
        raise ConversionError(
            f"{file}: init_lora_weights = {content['init_lora_weights']!r}: such an adapter also changes the base weights. "
            "Merge it with peft (merge_and_unload)"
        )
    if content.get("bias", "none") != "none":
        raise ConversionError(f"{file}: bias = {content['bias']!r}: adapters with biases are not supported")
    for key, value in content.items():
        known = key in _HARMLESS or key in _OBEYED or key in ("init_lora_weights", "bias")
        if value and not known and not (key == "qalora_group_size" and not content.get("use_qalora")):
            raise ConversionError(
                f"{file}: {key} = {value!r} is not supported: it may change what the adapter computes. Merge it with peft "
                "(merge_and_unload)"
            )
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 or not _is_number(alpha):
        raise ConversionError(f"{file}: r = {rank!r}, lora_alpha = {alpha!r}; expected a positive integer and a number")
    ranks, alphas = (content.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    saved = content.get("modules_to_save") or []
    if not isinstance(ranks, dict) or not isinstance(alphas, dict) or not isinstance(saved, list):
        raise ConversionError(f"{file}: rank_pattern and alpha_pattern must be objects, and modules_to_save a list")
    stabilised, swapped = (content.get(key) or False for key in ("use_rslora", "fan_in_fan_out"))
    if not isinstance(stabilised, bool) or not isinstance(swapped, bool):
        raise ConversionError(f"{file}: use_rslora and fan_in_fan_out must be true or false")
    return _Config(file, rank, float(alpha or 0), ranks, alphas, stabilised, swapped, tuple(map(str, saved)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that means the module, as peft looks it up."""
    for pattern, value in patterns.items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
        except re.error:
            continue
    return default
