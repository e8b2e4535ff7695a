"""Refuses files and settings of a checkpoint that change its vectors but that the converter does not read.

Adapters: those of peft, which transformers and sentence-transformers add to the weights beside them
(huggingface/peft, "Checkpoint format"), and of similar libraries. Code: `auto_map` of transformers, and its tokenizers that
split texts in ways that no file of the checkpoint describes. A class is recognised by its full name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER = re.compile(
    rf"{re.escape(ADAPTER_CONFIG)}|(pytorch_)?adapters?(_model)?\.(safetensors|bin|pt|npz)|.*lora.*\.(safetensors|bin|pt)",
    re.IGNORECASE,
)
_DEPTH = 3
"""Levels of folders that are searched for adapters, as in adapters/retrieval/."""

# Tokenizers of transformers that do more than tokenizer.json and vocab.txt say: they split by a dictionary, by bytes or by
# sentences, or replace names and links. All are slow ones, which never read tokenizer.json.
_OWN_TOKENIZERS = {
    "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertweetTokenizer", "ByT5Tokenizer", "CanineTokenizer",
    "FlaubertTokenizer", "MLukeTokenizer", "PerceiverTokenizer", "PhobertTokenizer", "ProphetNetTokenizer",
    "RoFormerTokenizer", "RoFormerTokenizerFast", "TapasTokenizer", "TapexTokenizer", "XLMProphetNetTokenizer",
    "XLMTokenizer",
}  # fmt: skip
# Those that do with vocab.txt what BertTokenizer does.
_VOCABULARY_TEXT = {"BertTokenizer", "ConvBertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"}
# Code for a tokenizer that differs from transformers' by the tokens around a text: see `adds_by_flags`.
_QWEN2_TOKENIZER = re.compile(r"(Alibaba-NLP/[\w.-]+--)?tokenization_qwen\.Qwen2TokenizerFast")

# Arguments of sentence-transformers' Transformer that do not change vectors.
_ARGUMENTS = ("model_args", "config_args", "tokenizer_args", "model_kwargs", "config_kwargs", "processor_kwargs")
_HARMLESS_ARGUMENTS = {
    "add_pooling_layer", "attn_implementation", "cache_dir", "device_map", "dtype", "local_files_only", "low_cpu_mem_usage",
    "model_max_length", "padding_side", "revision", "token", "torch_dtype", "trust_remote_code", "use_fast",
}  # fmt: skip


def refuse_adapters(folder: Path) -> None:
    """Raise ConversionError if there is an adapter in the folder, or below it."""
    adapter = next(_adapters(folder), None)
    if adapter is None:
        return
    only = not (folder / "config.json").is_file() and not (folder / "modules.json").is_file()
    base = _base_of(adapter.with_name(ADAPTER_CONFIG))
    what = f"an adapter{f' of {base}' if base else ''}, and the model is not beside it" if only else "an adapter"
    raise ConversionError(
        f"{adapter}: this is {what}. Vectors without it would be those of another model. Merge it into the weights (with "
        "peft: model.merge_and_unload(), then save_pretrained(FOLDER)) and convert that folder"
        + ("" if only else "; if the model does not use the adapter, move it out of the folder")
    )


def _adapters(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH else []
        yield from (Path(place) / name for name in sorted(files) if _ADAPTER.fullmatch(name))


def _base_of(file: Path) -> str | None:
    try:
        base = read_json(file).get("base_model_name_or_path")
    except ConversionError:
        return None
    return base if isinstance(base, str) else None


def own_code(config: dict[str, Any], file: Path) -> tuple[str, ...]:
    """Return the full names of the code that a config.json makes transformers run for the model; empty if there is none.

    It is that of AutoModel, or of AutoModelForSequenceClassification for a classifier; if `auto_map` lacks that, all others.
    Raises ConversionError for a malformed `auto_map`.
    """
    models = {name: code for name, code in _auto_map(config, file).items() if name.startswith("AutoModel")}
    names = config.get("architectures")
    classifies = isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)
    used = "AutoModelForSequenceClassification" if classifies else "AutoModel"
    return tuple(str(code) for code in ([models[used]] if used in models else models.values()))


def refuse_code(config: dict[str, Any], file: Path, followed: Collection[str] = ()) -> None:
    """Raise ConversionError if a config.json or tokenizer_config.json names the checkpoint's own code.

    followed: full names of code for the model (see `own_code`) that the family follows.
    """
    given = _auto_map(config, file)
    used = own_code(config, file)
    follows = bool(used) and set(used) <= set(followed)
    for name, code in given.items():
        if name.startswith("AutoTokenizer") and adds_by_flags(config):
            continue
        if name.startswith("AutoTokenizer") or (name.startswith("AutoModel") and not follows):
            raise ConversionError(
                f"{file}: auto_map has {name} = {code!r}: the model runs its own code, which may compute other vectors than "
                "the model of the same name that llama.cpp knows. Such code is never run, and cannot be converted"
            )


def adds_by_flags(config: dict[str, Any]) -> bool:
    """Return whether a tokenizer_config.json names the code of Alibaba's gte-Qwen2.

    It puts the tokens of `add_bos_token` and `add_eos_token` around a text, whatever tokenizer.json says.
    """
    code = config["auto_map"].get("AutoTokenizer") if isinstance(config.get("auto_map"), dict) else None
    fast = code[-1] if isinstance(code, list) and code else code
    return isinstance(fast, str) and _QWEN2_TOKENIZER.fullmatch(fast) is not None


def _auto_map(config: dict[str, Any], file: Path) -> dict[str, Any]:
    given = config.get("auto_map") or {}
    if not isinstance(given, dict):
        raise ConversionError(f"{file}: auto_map = {given!r}; expected an object")
    return given


def refuse_tokenizer_class(folder: Path, config: dict[str, Any]) -> None:
    """Raise ConversionError for a tokenizer that does more than its files say. config: config.json of the folder."""
    file = folder / "tokenizer_config.json"
    own = read_json(file) if file.is_file() else {}
    if own.get("tokenizer_class") is None:
        file, own = folder / "config.json", {**own, "tokenizer_class": config.get("tokenizer_class")}
    name = own["tokenizer_class"]
    words = own.get("word_tokenizer_type")
    if str(name) in _OWN_TOKENIZERS or words not in (None, "basic"):
        which = f"word_tokenizer_type = {words!r}" if str(name) not in _OWN_TOKENIZERS else f"tokenizer_class = {name!r}"
        raise ConversionError(
            f"{file}: {which}: this tokenizer splits texts in its own way, which llama.cpp's tokenizer does not do"
        )
    if name is None or (folder / "tokenizer.json").is_file() or not (folder / "vocab.txt").is_file():
        return
    if str(name).removesuffix("Fast") not in _VOCABULARY_TEXT:
        raise ConversionError(
            f"{file}: tokenizer_class = {name!r}: it is unknown how this tokenizer reads vocab.txt. Save the tokenizer as "
            "tokenizer.json (transformers' fast tokenizers do)"
        )


def refuse_arguments(config: dict[str, Any], file: Path) -> None:
    """Raise ConversionError if sentence-transformers is told to load the model with arguments that may change vectors."""
    for key in _ARGUMENTS:
        given = config.get(key) or {}
        if not isinstance(given, dict) or given.keys() - _HARMLESS_ARGUMENTS:
            raise ConversionError(
                f"{file}: {key} = {given!r} may change the vectors, and is not supported; write the values into config.json"
            )
