"""ColBERT checkpoints: a vector for each token, compared by MaxSim. The forms of PyLate, sentence-transformers and Stanford.

Formats: PyLate's config_sentence_transformers.json and Dense modules behind the Transformer, which project each token's
state (pylate/models/colbert.py); the MultiVectorEncoder of sentence-transformers 6, with the same modules, one that leaves
tokens out, and the other settings in those of its Transformer; Stanford's artifact.metadata, with `linear.weight` among the
weights of class HF_ColBERT.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeembed.engine.late_interaction import Expansion, LateInteraction
from edgeembed.errors import ConversionError
from edgeembed_convert.ignored import PYLATE_MODULES
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.prompts import CONFIG_FILE
from edgeembed_convert.tokenizer_json import token_ids

STANFORD_CLASS = "HF_ColBERT"
STANFORD_WEIGHT = "linear.weight"
METADATA_FILE = "artifact.metadata"
_MODEL_TYPE, _NEWER_TYPE = "ColBERT", "MultiVectorEncoder"
MASK = "MultiVectorMask"
# PyLate's, if a file does not say it.
_QUERY_PREFIX, _DOCUMENT_PREFIX = "[Q] ", "[D] "
_QUERY_LENGTH, _DOCUMENT_LENGTH = 32, 180
_STANFORD_QUERY, _STANFORD_DOCUMENT = "[unused0]", "[unused1]"
_KEYS = {
    "__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "query_prefix", "document_prefix",
    "query_length", "document_length", "attend_to_expansion_tokens", "do_query_expansion", "skiplist_words",
}  # fmt: skip
_NEWER_KEYS = {"__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name"}
_EXPANSION_KEYS = {"strategy", "attend", "token", "length"}
_MASK_KEYS = {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"}
_TOKENIZER_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class LateSettings:
    """What the files of a checkpoint say of late interaction.

    file: where. query_prefix, document_prefix: tokens behind the first one; empty for none. query_length: tokens of a filled
    query. document_length: tokens at which documents are cut; None if nothing says it. expands: whether queries are filled.
    attended: whether a query's own tokens attend to those that fill it. skipped: tokens of documents that get no vector.
    cuts: whether longer queries are cut. filler: the token that fills queries, if it is named. skips_unknown: whether words
    of `skipped` that are no token stand for the unknown one. has_prompts: whether texts have prompts in words.
    """

    file: Path
    query_prefix: str
    document_prefix: str
    query_length: int
    document_length: int | None
    expands: bool
    attended: bool
    skipped: tuple[str, ...]
    cuts: bool = True
    filler: str | None = None
    skips_unknown: bool = True
    has_prompts: bool = False


def read_settings(
    folder: Path, modules: list[tuple[str, Path]] | None, model_folder: Path, config: dict[str, Any], encoder: Path | None
) -> LateSettings | None:
    """Return the settings of a ColBERT checkpoint; None for other checkpoints. Raises ConversionError.

    model_folder: of the encoder. config: its config.json. encoder: the settings of sentence-transformers' Transformer.
    """
    file = folder / CONFIG_FILE
    own = read_json(file) if file.is_file() else {}
    if own.get("model_type") == _NEWER_TYPE:
        return _read_newer(file, own, modules or [], token_ids(model_folder), encoder)
    if any(kind in PYLATE_MODULES for kind, _ in modules or []) or own.get("model_type") == _MODEL_TYPE:
        return _read_pylate(file, own)
    if config.get("architectures") == [STANFORD_CLASS]:
        metadata = folder / METADATA_FILE
        return _read_stanford(metadata, read_json(metadata) if metadata.is_file() else {})
    return None


def _read_pylate(file: Path, own: dict[str, Any]) -> LateSettings:
    if unknown := sorted(own.keys() - _KEYS):
        raise ConversionError(f"{file}: unknown settings of a ColBERT model: {', '.join(unknown)}")
    if own.get("similarity_fn_name") not in (None, "MaxSim"):
        raise ConversionError(f"{file}: similarity_fn_name = {own['similarity_fn_name']!r}; supported is only 'MaxSim'")
    name, prompts = own.get("default_prompt_name"), own.get("prompts") or {}
    if name is not None and (not isinstance(prompts, dict) or prompts.get(name)):
        raise ConversionError(f"{file}: default_prompt_name = {name!r}: prompts of ColBERT models are not supported")
    expands = _flag(own, "do_query_expansion", file, default=True)
    words = own.get("skiplist_words")
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ConversionError(f"{file}: skiplist_words = {words!r}; expected a list of texts")
    return LateSettings(
        file,
        query_prefix=_text(own, "query_prefix", file, _QUERY_PREFIX),
        document_prefix=_text(own, "document_prefix", file, _DOCUMENT_PREFIX),
        query_length=_length(own, "query_length", file, _QUERY_LENGTH),
        document_length=_length(own, "document_length", file, _DOCUMENT_LENGTH),
        expands=expands,
        attended=_flag(own, "attend_to_expansion_tokens", file, default=False),
        skipped=tuple(string.punctuation if words is None else words),
    )


def _read_newer(
    file: Path, own: dict[str, Any], modules: list[tuple[str, Path]], ids: Mapping[str, int], encoder: Path | None
) -> LateSettings:
    """Read a MultiVectorEncoder. ids: of the vocabulary."""
    if unknown := sorted(own.keys() - _NEWER_KEYS):
        raise ConversionError(f"{file}: unknown settings of a {_NEWER_TYPE}: {', '.join(unknown)}")
    if str(own.get("similarity_fn_name", "maxsim")).lower() != "maxsim":
        raise ConversionError(f"{file}: similarity_fn_name = {own['similarity_fn_name']!r}; supported is only 'maxsim'")
    prompts = own.get("prompts") or {}
    query, document = (
        (str(prompts.get(name) or "") for name in ("query", "document")) if isinstance(prompts, dict) else ("", "")
    )
    markers = [prompt for prompt in (query, document) if prompt in ids]
    in_words = [prompt for prompt in (query, document) if prompt and prompt not in ids]
    if any(prompt.startswith("[") for prompt in in_words) or (markers and (in_words or own.get("default_prompt_name"))):
        raise ConversionError(f"{file}: supported are prompts that are a token each, or words alone; not {prompts!r}")
    settings = read_json(encoder) if encoder is not None else {}
    where = encoder or file
    expansion = settings.get("query_expansion")
    if expansion is not None and not (isinstance(expansion, dict) and expansion.keys() <= _EXPANSION_KEYS):
        raise ConversionError(f"{where}: query_expansion = {expansion!r}; expected {', '.join(sorted(_EXPANSION_KEYS))}")
    strategy = (expansion or {}).get("strategy", "fixed")
    if strategy not in ("fixed", "min"):
        raise ConversionError(f"{where}: query_expansion: strategy = {strategy!r}; supported are 'fixed' and 'min'")
    _check_modules(file.with_name("modules.json"), {kind for kind, _ in modules}, expands=expansion is not None)
    limit = settings.get("query_length")
    most = settings.get("document_length")
    return LateSettings(
        where,
        query_prefix=query if markers else "",
        document_prefix=document if markers else "",
        query_length=_length(expansion or {"length": limit}, "length", where, _QUERY_LENGTH),
        document_length=None if most is None else _length(settings, "document_length", where, 0),
        expands=expansion is not None,
        attended=_flag(expansion or {}, "attend", where, default=False),
        skipped=_read_mask(modules),
        cuts=limit is not None if expansion is None else strategy == "fixed",
        filler=_text(expansion or {}, "token", where, "") or None,
        skips_unknown=False,
        has_prompts=bool(in_words),
    )


def _check_modules(file: Path, kinds: Collection[str], *, expands: bool) -> None:
    """Raise ConversionError if scores depend on the length of vectors, or the tokens that fill a query are not scored."""
    if "Normalize" not in kinds:
        raise ConversionError(f"{file}: no Normalize module; late interaction is supported for vectors of length 1 only")
    if expands and MASK not in kinds:
        raise ConversionError(
            f"{file}: no {MASK} module, without which the tokens of query_expansion have no effect on scores"
        )


def _read_mask(modules: list[tuple[str, Path]]) -> tuple[str, ...]:
    """Return the words that the module for it leaves out of documents. Raises ConversionError for what else it can do."""
    for kind, folder in modules:
        if kind != MASK:
            continue
        file = folder / "config.json"
        own = read_json(file)
        words = own.get("skiplist_words") or []
        if own.keys() - _MASK_KEYS or own.get("keep_only_token_ids") or not isinstance(words, list):
            raise ConversionError(f"{file}: supported is only a list of words in skiplist_words")
        if words and own.get("skiplist_tasks", ["document"]) != ["document"]:
            raise ConversionError(f"{file}: skiplist_tasks = {own['skiplist_tasks']!r}; supported is only 'document'")
        return tuple(map(str, words))
    return ()


def _read_stanford(file: Path, own: dict[str, Any]) -> LateSettings:
    if own.get("similarity", "cosine") != "cosine":
        raise ConversionError(f"{file}: similarity = {own['similarity']!r}; supported is only 'cosine'")
    if own.get("interaction", "colbert") != "colbert":
        raise ConversionError(f"{file}: interaction = {own['interaction']!r}; supported is only 'colbert'")
    return LateSettings(
        file,
        query_prefix=_text(own, "query_token_id", file, _STANFORD_QUERY),
        document_prefix=_text(own, "doc_token_id", file, _STANFORD_DOCUMENT),
        query_length=_length(own, "query_maxlen", file, _QUERY_LENGTH),
        document_length=_length(own, "doc_maxlen", file, _DOCUMENT_LENGTH),
        expands=True,
        attended=_flag(own, "attend_to_mask_tokens", file, default=False),
        skipped=tuple(string.punctuation) if _flag(own, "mask_punctuation", file, default=True) else (),
    )


def reading_of(settings: LateSettings, model_folder: Path) -> LateInteraction:
    """Return how texts are read, with the ids of the tokens. Raises ConversionError for tokens that do not exist."""
    ids, names = token_ids(model_folder), _special_names(model_folder)

    def marker(prefix: str) -> int | None:
        if prefix and prefix not in ids:
            raise ConversionError(
                f"{settings.file}: the prefix {prefix!r} is no token of the vocabulary, so the model was not trained with it"
            )
        return ids[prefix] if prefix else None

    expansion = None
    if settings.expands:
        # As in PyLate: the mask token, or that of the end, or else the one for padding.
        filler = settings.filler or next((name for role in ("mask", "eos", "pad") if (name := names.get(role)) in ids), None)
        if filler not in ids:
            raise ConversionError(f"{model_folder}: no mask, eos or pad token, which fills queries")
        expansion = Expansion(ids[filler], settings.query_length, settings.attended)
    # Words without a token stand for the unknown token, in PyLate as here.
    unknown = ids.get(names.get("unk", "")) if settings.skips_unknown else None
    skipped = {ids.get(word, unknown) for word in settings.skipped}
    return LateInteraction(
        query_marker=marker(settings.query_prefix),
        document_marker=marker(settings.document_prefix),
        expansion=expansion,
        skipped=tuple(sorted(number for number in skipped if number is not None)),
    )


def _special_names(folder: Path) -> dict[str, str]:
    """Return the special token of each role, from special_tokens_map.json or tokenizer_config.json, or BERT's defaults."""
    found: dict[str, str] = {}
    configs = [read_json(file) for name in _TOKENIZER_CONFIGS if (file := folder / name).is_file()]
    if any(str(config.get("tokenizer_class")).startswith("BertTokenizer") for config in configs) or not configs:
        found = {"mask": "[MASK]", "pad": "[PAD]", "unk": "[UNK]"}
    for config in configs:
        for role in ("mask", "eos", "pad", "unk"):
            value = config.get(f"{role}_token")
            name = value.get("content") if isinstance(value, dict) else value
            if isinstance(name, str):
                found[role] = name
    return found


def _text(own: dict[str, Any], key: str, file: Path, default: str) -> str:
    value = default if own.get(key) is None else own[key]
    if not isinstance(value, str):
        raise ConversionError(f"{file}: {key} = {value!r}; expected a text")
    return value


def _length(own: dict[str, Any], key: str, file: Path, default: int) -> int:
    value = default if own.get(key) is None else own[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 4 <= value < 2**20:
        raise ConversionError(f"{file}: {key} = {value!r}; expected a number of tokens")
    return value


def _flag(own: dict[str, Any], key: str, file: Path, *, default: bool) -> bool:
    value = default if own.get(key) is None else own[key]
    if not isinstance(value, bool):
        raise ConversionError(f"{file}: {key} = {value!r}; expected true or false")
    return value
