"""Tokenizers in the files that there were before tokenizer.json: vocab.json with merges.txt, or a SentencePiece model.

These files have the vocabulary, but not how a text is split and which special tokens are put around it: that is in the code
of the tokenizer's class. For classes whose rules are known, the content of tokenizer.json is made, as transformers makes it;
the other modules read that. WordPiece's vocab.txt is read in `tokenizer`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.sentencepiece_file import CONTROL, NORMAL, UNIGRAM, UNKNOWN, read_sentencepiece_file

VOCABULARY, MERGES = "vocab.json", "merges.txt"
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""By which Qwen2's tokenizer splits a text, as in its tokenizer.json."""
# For checkpoints that do not name the class, as transformers chooses it.
_CLASS_OF = {
    "roberta": "RobertaTokenizer", "camembert": "CamembertTokenizer", "xlm-roberta": "XLMRobertaTokenizer",
    "t5": "T5Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer",
}  # fmt: skip
_ROBERTA = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
_ROLES: dict[str, dict[str, str | None]] = {
    "RobertaTokenizer": {**_ROBERTA},
    "CamembertTokenizer": {**_ROBERTA},
    "XLMRobertaTokenizer": {**_ROBERTA},
    "T5Tokenizer": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    "Qwen2Tokenizer": {"bos": None, "eos": "<|endoftext|>", "unk": None, "pad": "<|endoftext|>"},
}
"""The special tokens of each class by role, if no file names others."""
_EXTRA_IDS = 100  # T5Tokenizer's
_SAVE = (
    'Save it as tokenizer.json, which needs transformers: python -c "from transformers import AutoTokenizer; '
    "AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
)


@dataclass(frozen=True)
class _Source:
    """The files of a tokenizer."""

    folder: Path
    file: Path
    """The one with the vocabulary."""
    name: str
    """The class, without `Fast`."""
    config: dict[str, Any]
    """tokenizer_config.json, with the special tokens of special_tokens_map.json or of the class."""

    def role(self, role: str) -> str | None:
        """Return the special token of a role. Raises ConversionError for anything but a text."""
        value = self.config.get(f"{role}_token")
        piece = value.get("content") if isinstance(value, dict) else value
        if piece is not None and not isinstance(piece, str):
            raise ConversionError(f"{self.file}: the {role} token is {piece!r}; expected a text")
        return piece


def find_file(folder: Path) -> Path | None:
    """Return the file with the vocabulary of an older tokenizer; None if there is none of those that are read here."""
    return next((folder / name for name in (VOCABULARY, *_SENTENCEPIECE) if (folder / name).is_file()), None)


def older_tokenizer(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return the file with the vocabulary, what tokenizer.json would say, and tokenizer_config.json with the special tokens.

    Raises ConversionError if there is no such file, or if the rules of the tokenizer's class are not known.
    """
    file = find_file(folder)
    if file is None:
        raise ConversionError(
            f"{folder}: no tokenizer: neither tokenizer.json nor {VOCABULARY} with {MERGES} nor {', '.join(_SENTENCEPIECE)} "
            "exists"
        )
    config = _json(folder / "tokenizer_config.json")
    model = _json(folder / "config.json")
    name = config.get("tokenizer_class") or model.get("tokenizer_class") or _CLASS_OF.get(str(model.get("model_type")))
    plain = str(name).removesuffix("Fast")
    makers = _FROM_MERGES if file.name == VOCABULARY else _FROM_PIECES
    if plain not in makers:
        raise ConversionError(f"{file}: it is unknown how tokenizer_class = {name!r} reads this file. {_SAVE}")
    for key in ("add_bos_token", "add_eos_token"):
        if config.get(key):
            raise ConversionError(
                f"{folder / 'tokenizer_config.json'}: {key} = {config[key]!r} needs a tokenizer.json. {_SAVE}"
            )
    roles = {f"{role}_token": piece for role, piece in _ROLES[plain].items()}
    named = {key: value for key, value in _json(folder / "special_tokens_map.json").items() if key in roles}
    source = _Source(
        folder, file, plain, {**roles, **named, **{key: value for key, value in config.items() if value is not None}}
    )
    return file, makers[plain](source), source.config


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


# --- added tokens -------------------------------------------------------------------------------------------------------


def _added(source: _Source, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the entries of `added_tokens`: the special tokens, then those that files name. Raises ConversionError."""
    special = {piece for role in _ROLES[source.name] if (piece := source.role(role)) is not None}
    found = {piece: _entry(piece, ids[piece], special=True) for piece in sorted(special & ids.keys(), key=ids.__getitem__)}
    for piece, number in _json(source.folder / "added_tokens.json").items():
        found[piece] = _entry(piece, number, special=piece in special)
    decoder = source.config.get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        piece = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(piece, str) or not key.isdecimal():
            raise ConversionError(f"{source.folder / 'tokenizer_config.json'}: added token without content or id: {entry!r}")
        found[piece] = {**_entry(piece, int(key), special=False), **entry}
    missing = sorted(special - ids.keys() - found.keys())
    if missing:
        raise ConversionError(f"{source.file}: the special token {missing[0]!r} is not in the vocabulary")
    return list(found.values())


def _entry(piece: str, number: Any, *, special: bool) -> dict[str, Any]:
    return {"id": number, "content": piece, "special": special, "normalized": False, "single_word": False}


# --- vocab.json and merges.txt ------------------------------------------------------------------------------------------


def _byte_pairs(source: _Source) -> dict[str, Any]:
    vocabulary = read_json(source.file)
    merges = source.folder / MERGES
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ConversionError(f"{merges}: missing, but {VOCABULARY} needs it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{merges}: cannot be read: {error}") from error
    if not lines[0].startswith("#version"):
        raise ConversionError(
            f"{merges}: the first line is {lines[0][:40]!r}; expected #version; older formats are not read"
        )
    model = {"type": "BPE", "vocab": vocabulary, "merges": [line.rstrip("\r") for line in lines[1:] if line.strip()]}
    return {"model": model, "added_tokens": _added(source, vocabulary)}


def _roberta(source: _Source) -> dict[str, Any]:
    content = _byte_pairs(source)
    vocabulary = content["model"]["vocab"]
    ends = {role: [source.role(role), vocabulary.get(source.role(role))] for role in ("sep", "cls")}
    return {
        **content,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": source.config.get("add_prefix_space", False)},
        "post_processor": {"type": "RobertaProcessing", **ends},
    }


def _qwen2(source: _Source) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
    space = bool(source.config.get("add_prefix_space"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": space, "use_regex": False}
    return {
        **_byte_pairs(source),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
    }


# --- SentencePiece ------------------------------------------------------------------------------------------------------


def _unigram(
    source: _Source, before: list[tuple[str, float]], skipped: tuple[str, ...], after: list[str], template: str
) -> dict[str, Any]:
    """Return the content for a Unigram model.

    before, after: pieces of the class before and after those of the file. skipped: the first pieces of the file, which the
    class has elsewhere. template: a text's special tokens, and A.
    """
    model = read_sentencepiece_file(source.file)
    names = [piece for piece, _, _ in model.pieces]
    if model.model_type != UNIGRAM:
        raise ConversionError(f"{source.file}: the model is not Unigram, as {source.name} reads it. {_SAVE}")
    if not model.usual_spaces:
        raise ConversionError(
            f"{source.file}: the model treats spaces in another way than those that {source.name} is made for. {_SAVE}"
        )
    if any(kind not in (NORMAL, UNKNOWN, CONTROL) for _, _, kind in model.pieces):
        raise ConversionError(
            f"{source.file}: the model has user-defined pieces, unlike those that {source.name} is made for. {_SAVE}"
        )
    if tuple(names[: len(skipped)]) != skipped:
        raise ConversionError(f"{source.file}: the first pieces are {names[: len(skipped)]}; expected {list(skipped)}")
    if other := [role for role, piece in _ROLES[source.name].items() if source.role(role) != piece]:
        raise ConversionError(
            f"{source.file}: the {other[0]} token is {source.role(other[0])!r}, which {source.name} does not have"
        )
    vocabulary = [
        *before,
        *((piece, score) for piece, score, _ in model.pieces[len(skipped) :]),
        *((name, 0.0) for name in after),
    ]
    ids = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    parts = template.split()

    def pair_part(part: str) -> dict[str, Any]:
        return {"Sequence" if part in "AB" else "SpecialToken": {"id": part, "type_id": 0}}

    # RoBERTa puts its separator between the texts of a pair twice, T5 once.
    second = parts if parts[0] == "A" else parts[-1:] + parts[1:]
    return {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode("ascii")},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*map(pair_part, parts)],
            "pair": [*map(pair_part, parts), *(pair_part("B" if part == "A" else part) for part in second)],
            "special_tokens": {part: {"id": part, "ids": [ids[part]], "tokens": [part]} for part in parts if part != "A"},
        },
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": [list(entry) for entry in vocabulary]},
        "added_tokens": _added(source, ids),
    }


def _xlm_roberta(source: _Source) -> dict[str, Any]:
    # fairseq's order of the special tokens, which moves all other ids by one.
    before = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return _unigram(source, before, ("<unk>", "<s>", "</s>"), ["<mask>"], "<s> A </s>")


def _camembert(source: _Source) -> dict[str, Any]:
    before = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    return _unigram(source, before, ("<unk>",), ["<mask>"], "<s> A </s>")


def _t5(source: _Source) -> dict[str, Any]:
    count = source.config.get("extra_ids", _EXTRA_IDS)
    if not isinstance(count, int) or not 0 <= count <= 10 * _EXTRA_IDS:
        raise ConversionError(f"{source.folder / 'tokenizer_config.json'}: extra_ids = {count!r}; expected a number")
    extra = [f"<extra_id_{number}>" for number in reversed(range(count))]
    content = _unigram(source, [], (), extra, "A </s>")
    first = len(content["model"]["vocab"]) - count
    content["added_tokens"] += [_entry(piece, first + at, special=True) for at, piece in enumerate(extra)]
    return content


_FROM_MERGES: dict[str, Callable[[_Source], dict[str, Any]]] = {"RobertaTokenizer": _roberta, "Qwen2Tokenizer": _qwen2}
_FROM_PIECES: dict[str, Callable[[_Source], dict[str, Any]]] = {
    "XLMRobertaTokenizer": _xlm_roberta,
    "CamembertTokenizer": _camembert,
    "T5Tokenizer": _t5,
}
