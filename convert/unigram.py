"""Unigram vocabularies (XLM-RoBERTa's and T5's) for llama.cpp's tokenizer `t5`.

Kudo, "Subword Regularization", 2018; texts are first normalised by a table compiled by SentencePiece ("precompiled
charsmap"). llama.cpp reads the pieces, the scores and that table; the rest is fixed: runs of white space become one space,
every text begins with a space, and unknown characters are not replaced by byte pieces. A tokenizer that needs anything else
is rejected, because its vectors would silently differ.
Format: tokenizer.json of the tokenizers library; `tokenizer.ggml.precompiled_charsmap` is SentencePiece's unmodified blob.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys, TokenType

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.template import Template, read_templates
from edgeembed_convert.tokenizer import check_whole_word
from edgeembed_convert.tokenizer_json import read_tokenizer_files

SPACES_KEY = "edgeembed.tokenizer.spaces"
WORD_START = "\u2581"
# Normalised texts do not contain plain spaces, so nothing matches such a piece.
_UNUSED = "<unused {}>"
UNUSED_SCORE = -10000.0
"""Log probability of unused pieces."""


@dataclass(frozen=True)
class Unigram:
    """A Unigram vocabulary. `pieces[i]` has the id i and the log probability `scores[i]`."""

    pieces: list[str]
    scores: list[float]
    kinds: list[TokenType]
    special: dict[str, int]
    """Ids of eos (after a text) and unk; of bos (before a text, not in T5), pad and mask if they exist."""
    charsmap: bytes
    spaces: str
    """Which white space is a token of its own: "end", a text's last; "each", also all but one between words; or ""."""
    pair: Sequence[int | str] | None
    """The template for a pair: ids, and "A" and "B" for the texts; None if the tokenizer has none."""

    def metadata(self) -> Metadata:
        """Return the `tokenizer.*` keys of the GGUF specification."""
        keys: Metadata = {
            Keys.Tokenizer.MODEL: "t5",
            Keys.Tokenizer.PRE: "default",
            Keys.Tokenizer.LIST: self.pieces,
            Keys.Tokenizer.SCORES: self.scores,
            Keys.Tokenizer.TOKEN_TYPE: [int(kind) for kind in self.kinds],
            Keys.Tokenizer.EOS_ID: self.special["eos"],
            Keys.Tokenizer.SEP_ID: self.special["eos"],
            Keys.Tokenizer.UNK_ID: self.special["unk"],
            Keys.Tokenizer.ADD_BOS: "bos" in self.special,
            Keys.Tokenizer.ADD_EOS: True,
            Keys.Tokenizer.ADD_PREFIX: True,
            Keys.Tokenizer.REMOVE_EXTRA_WS: True,
        }
        for role, key in (
            ("bos", Keys.Tokenizer.BOS_ID),
            ("bos", "tokenizer.ggml.cls_token_id"),
            ("pad", Keys.Tokenizer.PAD_ID),
            ("mask", Keys.Tokenizer.MASK_ID),
        ):
            if role in self.special:
                keys[key] = self.special[role]
        if self.spaces:
            keys[SPACES_KEY] = self.spaces
        if self.charsmap:
            keys[Keys.Tokenizer.PRECOMPILED_CHARSMAP] = self.charsmap
        return keys


def read_unigram(folder: Path, vocab_size: int) -> Unigram:
    """Return the vocabulary of tokenizer.json, or of a SentencePiece model.

    If `vocab_size` of config.json is larger than the vocabulary, unused pieces are added. Raises ConversionError if the file
    is missing or malformed, the vocabulary is larger than `vocab_size`, or llama.cpp does not support the tokenizer.
    """
    file, content, _ = read_tokenizer_files(folder)
    pieces, scores, unk = _read_model(content, file)
    charsmap = _read_normalizer(content.get("normalizer"), file)
    _check_pre_tokenizer(content.get("pre_tokenizer"), file)
    spaces = _read_spaces(content, file)
    single, pair = read_templates(content, file)
    special = {**_around(single, file), "unk": unk}

    added = _added_tokens(content, file)
    for number, (piece, _) in sorted(added.items()):
        if number == len(pieces):
            pieces.append(piece)
            scores.append(0.0)
        elif number > len(pieces) or pieces[number] != piece:
            raise ConversionError(
                f"{file}: the added token {piece!r} has the id {number}, which belongs to another piece or leaves a gap"
            )
    if len(pieces) > vocab_size:
        raise ConversionError(f"{file}: {len(pieces)} pieces, but vocab_size in config.json is {vocab_size}")
    if len(set(pieces)) != len(pieces) or "" in pieces:
        raise ConversionError(f"{file}: the vocabulary has an empty or a duplicate piece")
    kinds = [TokenType.NORMAL] * len(pieces)
    for number, (_, is_special) in added.items():
        kinds[number] = TokenType.CONTROL if is_special else TokenType.USER_DEFINED
    for role, number in special.items():
        if number >= len(pieces):
            raise ConversionError(f"{file}: the {role} token has the id {number}, but there are {len(pieces)} pieces")
        kinds[number] = TokenType.UNKNOWN if role == "unk" else TokenType.CONTROL
    special |= {role: number for role, number in _named_tokens(folder, pieces).items() if kinds[number] == TokenType.CONTROL}

    for number in range(len(pieces), vocab_size):
        pieces.append(_UNUSED.format(number))
        scores.append(UNUSED_SCORE)
        kinds.append(TokenType.UNUSED)
    return Unigram(pieces, scores, kinds, special, charsmap, spaces, pair)


def _around(single: Template, file: Path) -> dict[str, int]:
    """Return the ids of the tokens before and after a text."""
    match single:
        case [int(before), "A", int(after)]:
            return {"bos": before, "eos": after}
        case ["A", int(after)]:
            return {"eos": after}
    raise ConversionError(
        f"{file}: the post-processor is not supported; expected one token after a text, and at most one before it"
    )


def _read_model(content: Mapping[str, Any], file: Path) -> tuple[list[str], list[float], int]:
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "Unigram":
        kind = model.get("type") if isinstance(model, dict) else None
        raise ConversionError(f"{file}: the tokenizer's model is {kind!r}; expected Unigram")
    if model.get("byte_fallback", False) is not False:
        raise ConversionError(f"{file}: byte_fallback is not supported by llama.cpp's Unigram tokenizer")
    vocab = model.get("vocab")
    pieces: list[str] = []
    scores: list[float] = []
    for entry in vocab if isinstance(vocab, list) else [None]:
        piece, score = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if not isinstance(piece, str) or not isinstance(score, int | float) or isinstance(score, bool):
            raise ConversionError(f"{file}: model.vocab must be a list of pieces with scores; found {entry!r}")
        pieces.append(piece)
        scores.append(float(score))
    unk = model.get("unk_id")
    if not isinstance(unk, int) or isinstance(unk, bool) or not 0 <= unk < len(pieces):
        raise ConversionError(f"{file}: unk_id = {unk!r} is not the id of a piece")
    return pieces, scores, unk


def _read_normalizer(normalizer: Any, file: Path) -> bytes:
    """Return the precompiled table, b"" if there is none. llama.cpp merges and strips white space in any case."""
    charsmap = b""
    for part in _parts(normalizer, "normalizers"):
        kind = part.get("type")
        if kind == "Precompiled" and not charsmap:
            try:
                charsmap = base64.b64decode(part.get("precompiled_charsmap") or "", validate=True)
            except (binascii.Error, ValueError, TypeError) as error:
                raise ConversionError(f"{file}: precompiled_charsmap is not base64: {error}") from error
            if charsmap and int.from_bytes(charsmap[:4], "little") + 4 >= len(charsmap):
                raise ConversionError(f"{file}: precompiled_charsmap is truncated")
        elif kind == "Replace" and _merges_spaces(part):
            pass
        elif kind != "Strip":
            raise ConversionError(f"{file}: the normaliser {kind!r} is not supported by llama.cpp for Unigram vocabularies")
    return charsmap


def _read_spaces(content: Mapping[str, Any], file: Path) -> str:
    """Return which white space is a token of its own; see `Unigram.spaces`. llama.cpp has no such tokens."""
    if len(_parts(content.get("pre_tokenizer"), "pretokenizers")) > 1:
        return ""  # WhitespaceSplit drops white space
    steps = _parts(content.get("normalizer"), "normalizers")
    merges = any(_merges_spaces(step) for step in steps)
    strips = any(step.get("type") == "Strip" and step.get("strip_right", True) for step in steps)
    if strips and not merges:
        raise ConversionError(f"{file}: the normaliser strips white space, but does not merge it, as llama.cpp always does")
    return "" if strips else "end" if merges else "each"


def _merges_spaces(part: Mapping[str, Any]) -> bool:
    pattern = part.get("pattern")
    return isinstance(pattern, dict) and pattern.get("Regex") == " {2,}" and part.get("content") in (" ", WORD_START)


def _check_pre_tokenizer(pre_tokenizer: Any, file: Path) -> None:
    parts = _parts(pre_tokenizer, "pretokenizers")
    if [part.get("type") for part in parts] not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise ConversionError(f"{file}: the pre-tokenizer is not supported; for Unigram, llama.cpp supports only Metaspace")
    metaspace = parts[-1]
    scheme = metaspace.get("prepend_scheme", "always")
    if metaspace.get("replacement") != WORD_START or not metaspace.get("add_prefix_space", True) or scheme != "always":
        raise ConversionError(f"{file}: Metaspace must replace spaces by {WORD_START!r} and add one before every text")


def _parts(value: Any, key: str) -> list[dict[str, Any]]:
    """Return the steps of a normaliser or a pre-tokenizer, which may be a sequence or a single one."""
    if value is None:
        return []
    steps = value.get(key) if isinstance(value, dict) and value.get("type") == "Sequence" else [value]
    return [step if isinstance(step, dict) else {} for step in steps] if isinstance(steps, list) else [{}]


def _added_tokens(content: Mapping[str, Any], file: Path) -> dict[int, tuple[str, bool]]:
    """Return id -> (piece, whether it is special)."""
    found: dict[int, tuple[str, bool]] = {}
    entries = content.get("added_tokens") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        piece, number = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(piece, str) or not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ConversionError(f"{file}: added token without content or id: {entry!r}")
        if not entry.get("special"):
            check_whole_word(entry, file)
        found[number] = (piece, bool(entry.get("special")))
    return found


def _named_tokens(folder: Path, pieces: Sequence[str]) -> dict[str, int]:
    """Return the ids of pad and mask in special_tokens_map.json or tokenizer_config.json."""
    names: dict[str, Any] = {}
    for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        names |= read_json(file) if file.is_file() else {}
    found = {}
    for role, default in (("pad", "<pad>"), ("mask", "<mask>")):
        value = names.get(f"{role}_token") or default
        piece = value.get("content") if isinstance(value, dict) else value
        if piece in pieces:
            found[role] = pieces.index(piece)
    return found
