"""A checkpoint folder as Hugging Face and sentence-transformers lay it out: configuration, pooling, weights, tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json, read_json_value
from edgeembed_convert.prompts import read_prompts
from edgeembed_convert.weights import Weights, open_weights

Task = Literal["embed", "rerank"]

# sentence-transformers' names of what GGUF can say (`{arch}.pooling_type`).
_POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
# The older form of the Pooling folder's config: one boolean per mode.
_POOLING_BOOLEANS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# Modules that do not change the pooled row's direction; the daemon normalises on its own.
_HARMLESS_MODULES = {"Normalize", "Dropout"}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `config` was read; the rest is read when asked for."""

    folder: Path
    modules: list[tuple[str, Path]] | None
    """Class name and folder of each sentence-transformers module; None when there is no modules.json."""
    model_folder: Path
    """Where the encoder's own files lie: the folder itself, or that of the Transformer module."""
    config: dict[str, Any]
    task: Task | None = None
    """What the caller says the model is for, where the files may not say it."""

    @property
    def config_file(self) -> Path:
        """The file that `config` came from, for error messages."""
        return self.model_folder / "config.json"

    @cached_property
    def weights(self) -> Weights:
        """The safetensors files, headers checked. Raises ConversionError."""
        return open_weights(self.model_folder)

    @cached_property
    def lowercases_input(self) -> bool:
        """Whether sentence-transformers lower-cases a text before the tokenizer sees it."""
        file = self.model_folder / "sentence_bert_config.json"
        value = read_json(file).get("do_lower_case", False) if file.is_file() else False
        if not isinstance(value, bool):
            raise ConversionError(f"{file}: do_lower_case = {value!r} is not true or false")
        return value

    @property
    def license(self) -> str | None:
        """The licence that the front matter of README.md names, if any."""
        return self.card_value("license")

    @cached_property
    def card(self) -> str:
        """README.md, the model card; empty when there is none."""
        file = self.folder / "README.md"
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def card_value(self, key: str) -> str | None:
        """Give a one-line value from the front matter of README.md, if it is there."""
        lines = self.card.splitlines()
        if not lines or lines[0].strip() != "---":
            return None
        for line in lines[1:]:
            if line.strip() == "---":
                return None
            if line.startswith(f"{key}:"):
                return line.removeprefix(f"{key}:").strip().strip("\"'") or None
        return None

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The templates that config_sentence_transformers.json tells; the keys are those of `ModelPlan.prompts`."""
        return read_prompts(self.folder)

    def positive_int(self, key: str) -> int:
        """Give a size from config.json. Raises ConversionError when it is missing or not a positive whole number."""
        value = self.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConversionError(f"{self.config_file}: {key} = {value!r} is not a positive whole number")
        return value

    def pooling(self, hidden_size: int, also: Collection[str] = ()) -> str:
        """Give the pooling that the checkpoint itself names: mean, cls or last.

        `also` are modules beside Transformer and Pooling that the family takes care of.

        Raises ConversionError when the files do not say, contradict each other, or ask for what GGUF cannot express.
        """
        if self.modules is None:
            raise ConversionError(
                f"{self.folder / 'modules.json'}: missing, so nothing says how token vectors become one vector; "
                "only sentence-transformers checkpoints, which carry modules.json and a Pooling folder, can be converted"
            )
        poolings = []
        for kind, folder in self.modules:
            if kind == "Pooling":
                poolings.append(folder / "config.json")
            elif kind not in {"Transformer", *_HARMLESS_MODULES, *also}:
                raise ConversionError(
                    f"{self.folder / 'modules.json'}: the model has a {kind} module, which a GGUF file would lose"
                )
        if len(poolings) != 1:
            raise ConversionError(
                f"{self.folder / 'modules.json'}: one Pooling module was expected, {len(poolings)} are there"
            )
        return _read_pooling(poolings[0], hidden_size)


def open_checkpoint(folder: Path, task: Task | None = None) -> Checkpoint:
    """Open a checkpoint folder and read its config.json. Raises ConversionError when it is not one."""
    if not folder.is_dir():
        raise ConversionError(f"{folder}: not a folder")
    modules = _read_modules(folder)
    model_folder = folder
    for kind, path in modules or []:
        if kind == "Transformer":
            model_folder = path
    return Checkpoint(folder, modules, model_folder, read_json(model_folder / "config.json"), task)


def _read_modules(folder: Path) -> list[tuple[str, Path]] | None:
    file = folder / "modules.json"
    if not file.is_file():
        return None
    entries = read_json_value(file)
    if not isinstance(entries, list):
        raise ConversionError(f"{file}: a list of modules was expected")
    modules = []
    for entry in entries:
        kind = entry.get("type") if isinstance(entry, dict) else None
        path = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ConversionError(f"{file}: a module without type or path: {entry!r}")
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path:
            raise ConversionError(f"{file}: the path {path!r} leaves the checkpoint's folder")
        # sentence-transformers moved its classes between modules more than once; the class name stayed.
        modules.append((kind.rpartition(".")[2], folder / parts))
    return modules


def _read_pooling(file: Path, hidden_size: int) -> str:
    config = read_json(file)
    mode = config.get("pooling_mode")
    if mode is None:
        modes = [
            _POOLING_BOOLEANS.get(key, key) for key, value in config.items() if key.startswith("pooling_mode_") and value
        ]
    else:
        modes = list(mode) if isinstance(mode, list) else [mode]
    if len(modes) != 1:
        raise ConversionError(
            f"{file}: one pooling mode was expected, the file names {', '.join(map(str, modes)) or 'none'}"
        )
    if not isinstance(modes[0], str) or modes[0] not in _POOLING:
        raise ConversionError(f"{file}: pooling {modes[0]!r} cannot be expressed in GGUF; {', '.join(_POOLING)} can")
    if config.get("include_prompt") is False:
        raise ConversionError(
            f"{file}: include_prompt = false leaves the prompt out of the pooling, which GGUF cannot express"
        )
    size = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden_size))
    if size != hidden_size:
        raise ConversionError(f"{file}: pools vectors of {size} values, but the model's hidden_size is {hidden_size}")
    return _POOLING[modes[0]]
