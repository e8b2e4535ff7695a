"""Unigram vocabularies (XLM-RoBERTa's) as llama.cpp's tokenizer `t5` wants them.

Kudo, "Subword Regularization", 2018; the text is normalised first by a table that SentencePiece compiled ("precompiled
charsmap"). llama.cpp reads pieces, scores and that table; everything else is fixed there: runs of white space count as one
space, every text begins with one, and no byte pieces stand in for unknown characters. A tokenizer that asks for anything
else is refused, since its vectors would differ without a word.
Format: tokenizer.json of the tokenizers library; `tokenizer.ggml.precompiled_charsmap` is SentencePiece's blob as it is.
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
from edgeembed_convert.template import read_templates

WORD_START = "\u2581"
# A text never holds a plain space once it is normalised, so nothing matches such a piece.
_UNUSED = "<unused {}>"
UNUSED_SCORE = -10000.0
"""Log probability of a piece that stands for nothing."""


@dataclass(frozen=True)
class Unigram:
    """A Unigram vocabulary. Piece number i is `pieces[i]`, with the log probability `scores[i]`."""

    pieces: list[str]
    scores: list[float]
    kinds: list[TokenType]
    special: dict[str, int]
    """Ids of bos (in front of a text), eos (after it) and unk; of pad and mask where there are such."""
    charsmap: bytes
    pair: Sequence[int | str] | None
    """How two texts become one: ids, and "A" and "B" for the texts; None where the tokenizer does not say."""

    def metadata(self) -> Metadata:
        """Give the `tokenizer.*` keys of the GGUF specification."""
        keys: Metadata = {
            Keys.Tokenizer.MODEL: "t5",
            Keys.Tokenizer.PRE: "default",
            Keys.Tokenizer.LIST: self.pieces,
            Keys.Tokenizer.SCORES: self.scores,
            Keys.Tokenizer.TOKEN_TYPE: [int(kind) for kind in self.kinds],
            Keys.Tokenizer.BOS_ID: self.special["bos"],
            "tokenizer.ggml.cls_token_id": self.special["bos"],
            Keys.Tokenizer.EOS_ID: self.special["eos"],
            Keys.Tokenizer.SEP_ID: self.special["eos"],
            Keys.Tokenizer.UNK_ID: self.special["unk"],
            Keys.Tokenizer.ADD_BOS: True,
            Keys.Tokenizer.ADD_EOS: True,
            Keys.Tokenizer.ADD_PREFIX: True,
            Keys.Tokenizer.REMOVE_EXTRA_WS: True,
        }
        for role, key in (("pad", Keys.Tokenizer.PAD_ID), ("mask", Keys.Tokenizer.MASK_ID)):
            if role in self.special:
                keys[key] = self.special[role]
        if self.charsmap:
            keys[Keys.Tokenizer.PRECOMPILED_CHARSMAP] = self.charsmap
        return keys


def read_unigram(folder: Path, vocab_size: int, *, lowercases_input: bool) -> Unigram:
    """Read tokenizer.json.

    Ids that config.json's `vocab_size` promises beyond the vocabulary become unused pieces. Raises ConversionError when the
    file is missing or broken, when the vocabulary is larger than `vocab_size`, or when the tokenizer asks for what
    llama.cpp's cannot do.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConversionError(f"{file}: missing; a SentencePiece model alone cannot be read")
    if lowercases_input:
        raise ConversionError(f"{folder}: the input is lower-cased, which llama.cpp cannot do for a Unigram vocabulary")
    content = read_json(file)
    pieces, scores, unk = _read_model(content, file)
    charsmap = _read_normalizer(content.get("normalizer"), file)
    _check_pre_tokenizer(content.get("pre_tokenizer"), file)
    single, pair = read_templates(content, file)
    if len(single) != 3 or single[1] != "A" or not isinstance(single[0], int) or not isinstance(single[2], int):
        raise ConversionError(
            f"{file}: the post-processor does not put one token in front of a text and one after it, as llama.cpp would"
        )
    special = {"bos": single[0], "eos": single[2], "unk": unk}

    added = _added_tokens(content, file)
    for number, (piece, _) in sorted(added.items()):
        if number == len(pieces):
            pieces.append(piece)
            scores.append(0.0)
        elif number > len(pieces) or pieces[number] != piece:
            raise ConversionError(
                f"{file}: the added token {piece!r} has the id {number}, which is another piece's or none's"
            )
    if len(pieces) > vocab_size:
        raise ConversionError(f"{file}: {len(pieces)} pieces, but vocab_size in config.json is {vocab_size}")
    if len(set(pieces)) != len(pieces) or "" in pieces:
        raise ConversionError(f"{file}: a piece is empty or stands twice in the vocabulary")
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
    return Unigram(pieces, scores, kinds, special, charsmap, pair)


def _read_model(content: Mapping[str, Any], file: Path) -> tuple[list[str], list[float], int]:
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "Unigram":
        kind = model.get("type") if isinstance(model, dict) else None
        raise ConversionError(f"{file}: the tokenizer's model is {kind!r}; Unigram was expected")
    if model.get("byte_fallback", False) is not False:
        raise ConversionError(f"{file}: byte_fallback: llama.cpp's Unigram tokenizer has no byte pieces")
    vocab = model.get("vocab")
    pieces: list[str] = []
    scores: list[float] = []
    for entry in vocab if isinstance(vocab, list) else [None]:
        piece, score = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if not isinstance(piece, str) or not isinstance(score, int | float) or isinstance(score, bool):
            raise ConversionError(f"{file}: model.vocab is not a list of pieces with scores: {entry!r}")
        pieces.append(piece)
        scores.append(float(score))
    unk = model.get("unk_id")
    if not isinstance(unk, int) or isinstance(unk, bool) or not 0 <= unk < len(pieces):
        raise ConversionError(f"{file}: unk_id = {unk!r} is no piece's id")
    return pieces, scores, unk


def _read_normalizer(normalizer: Any, file: Path) -> bytes:
    """Give the precompiled table; b"" without one. Whatever merges or strips white space, llama.cpp does on its own."""
    charsmap = b""
    for part in _parts(normalizer, "normalizers"):
        kind = part.get("type")
        if kind == "Precompiled" and not charsmap:
            try:
                charsmap = base64.b64decode(part.get("precompiled_charsmap") or "", validate=True)
            except (binascii.Error, ValueError, TypeError) as error:
                raise ConversionError(f"{file}: precompiled_charsmap is not base64: {error}") from error
            if charsmap and int.from_bytes(charsmap[:4], "little") + 4 >= len(charsmap):
                raise ConversionError(f"{file}: precompiled_charsmap ends before its table does")
        elif kind == "Replace" and _merges_spaces(part):
            pass
        elif kind != "Strip":
            raise ConversionError(f"{file}: llama.cpp has no normaliser {kind!r} for Unigram vocabularies")
    return charsmap


def _merges_spaces(part: Mapping[str, Any]) -> bool:
    pattern = part.get("pattern")
    return isinstance(pattern, dict) and pattern.get("Regex") == " {2,}" and part.get("content") in (" ", WORD_START)


def _check_pre_tokenizer(pre_tokenizer: Any, file: Path) -> None:
    parts = _parts(pre_tokenizer, "pretokenizers")
    if [part.get("type") for part in parts] not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise ConversionError(f"{file}: llama.cpp has only the pre-tokenizer Metaspace for Unigram vocabularies")
    metaspace = parts[-1]
    scheme = metaspace.get("prepend_scheme", "always")
    if metaspace.get("replacement") != WORD_START or not metaspace.get("add_prefix_space", True) or scheme != "always":
        raise ConversionError(f"{file}: Metaspace must write spaces as {WORD_START!r} and put one in front of every text")


def _parts(value: Any, key: str) -> list[dict[str, Any]]:
    """Give the steps of a normaliser or a pre-tokenizer, whether it is a sequence or a single one."""
    if value is None:
        return []
    steps = value.get(key) if isinstance(value, dict) and value.get("type") == "Sequence" else [value]
    return [step if isinstance(step, dict) else {} for step in steps] if isinstance(steps, list) else [{}]


def _added_tokens(content: Mapping[str, Any], file: Path) -> dict[int, tuple[str, bool]]:
    """Give id -> (piece, whether it is special)."""
    found: dict[int, tuple[str, bool]] = {}
    entries = content.get("added_tokens") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        piece, number = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(piece, str) or not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ConversionError(f"{file}: an added token without content or id: {entry!r}")
        found[number] = (piece, bool(entry.get("special")))
    return found


def _named_tokens(folder: Path, pieces: Sequence[str]) -> dict[str, int]:
    """Give the ids of pad and mask, as special_tokens_map.json or tokenizer_config.json name them."""
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
