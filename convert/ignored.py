"""Refuses files and settings of a checkpoint that change its vectors but that the converter does not read.

Code: `auto_map` of transformers, modules of other packages than sentence-transformers, and tokenizers that split texts in
ways that no file of the checkpoint describes. A class is recognised by its full name. For adapters see `adapters`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json

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
TOKENIZER_ARGUMENTS = ("processor_kwargs", "tokenizer_args")
PYLATE_MODULES = ("pylate.models.Dense.Dense", "pylate.models.Dense")
"""Dense modules of ColBERT models, which `late_interaction` reads."""
_HARMLESS_ARGUMENTS = {
    "add_pooling_layer", "attn_implementation", "cache_dir", "device_map", "dtype", "local_files_only", "low_cpu_mem_usage",
    "model_max_length", "padding_side", "revision", "token", "torch_dtype", "trust_remote_code", "use_fast",
}  # fmt: skip


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


def refuse_modules(modules: Iterable[str], file: Path, followed: Collection[str] = ()) -> None:
    """Raise ConversionError if modules.json names a module of another package that the family does not follow."""
    for kind in modules:
        if "." in kind and kind not in (*PYLATE_MODULES, *followed):
            raise ConversionError(
                f"{file}: the module {kind} is the checkpoint's own code, which is never run; only modules of "
                "sentence_transformers can be converted"
            )


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
