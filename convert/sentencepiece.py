"""SentencePiece vocabularies that were trained with BPE (Gemma's, Llama 2's, Mistral's), for llama.cpp's tokenizer `llama`.

In tokenizer.json such a vocabulary is BPE over characters: spaces are U+2581, characters without a piece become bytes, and
merges are applied in order. llama.cpp has scores instead of merges: it joins the neighbours whose joined piece has the best
score. Both are equivalent if every split of a piece into two pieces is a merge, and all merges that produce a piece are
adjacent, as in every file made from a SentencePiece model; other vocabularies are rejected.
Algorithm: Kudo and Richardson, "SentencePiece", 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys, TokenType

from edgeembed.errors import ConversionError
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer_json import TokenizerFile, as_object, open_tokenizer, single

SPACE = "\u2581"
# Score of tokens that no merge produces, as in llama.cpp's converter; only the order of scores matters.
_ADDED_SCORE = -1000.0


@dataclass(frozen=True)
class SentencePieces:
    """A SentencePiece-like BPE vocabulary. `pieces[i]` has the id i and the score `scores[i]`."""

    file: Path
    pieces: list[str]
    scores: list[float]
    kinds: list[TokenType]
    special: dict[str, int]
    """Ids of unk, and of bos, eos, pad and mask if they exist."""
    adds_bos: bool
    adds_eos: bool
    adds_space: bool
    """Whether a space is put before each text."""

    def metadata(self) -> Metadata:
        """Return the `tokenizer.*` keys of the GGUF specification."""
        keys: Metadata = {
            Keys.Tokenizer.MODEL: "llama",
            Keys.Tokenizer.PRE: "default",
            Keys.Tokenizer.LIST: self.pieces,
            Keys.Tokenizer.SCORES: self.scores,
            Keys.Tokenizer.TOKEN_TYPE: [int(kind) for kind in self.kinds],
            Keys.Tokenizer.ADD_BOS: self.adds_bos,
            Keys.Tokenizer.ADD_EOS: self.adds_eos,
            Keys.Tokenizer.ADD_PREFIX: self.adds_space,
        }
        names = {
            "bos": Keys.Tokenizer.BOS_ID,
            "eos": Keys.Tokenizer.EOS_ID,
            "unk": Keys.Tokenizer.UNK_ID,
            "pad": Keys.Tokenizer.PAD_ID,
            "mask": Keys.Tokenizer.MASK_ID,
        }
        keys |= {names[role]: number for role, number in self.special.items()}
        return keys


def read_sentencepieces(folder: Path, vocab_size: int) -> SentencePieces:
    """Return the vocabulary of tokenizer.json and tokenizer_config.json.

    Raises ConversionError if something is missing, contradictory, or not supported by llama.cpp's tokenizer.
    """
    tokenizer = open_tokenizer(folder)
    adds_space = _adds_space(tokenizer)
    _check_pipeline(tokenizer)
    # Gemma's vocabulary has a token for images, for which the embedding model has no row.
    pieces, kinds = tokenizer.pieces(vocab_size, drop_beyond=True)
    front, back = tokenizer.frame()
    first = single(tokenizer.file, front, "before")
    last = single(tokenizer.file, back, "after")
    special = {}
    for role in ("bos", "eos", "unk", "pad", "mask"):
        number = tokenizer.role(role)
        if number is not None and number < vocab_size:
            special[role] = number
    special |= {role: number for role, number in (("bos", first), ("eos", last)) if number is not None}
    unknown = tokenizer.vocabulary.get(str(tokenizer.model.get("unk_token")))
    if unknown is None:
        raise ConversionError(f"{tokenizer.file}: model.unk_token is missing or not in the vocabulary")
    for number in special.values():
        kinds[number] = TokenType.CONTROL
    special["unk"] = unknown
    if kinds[unknown] != TokenType.CONTROL:
        kinds[unknown] = TokenType.UNKNOWN
    for byte in range(256):
        number = tokenizer.vocabulary.get(f"<0x{byte:02X}>", vocab_size)
        if number >= vocab_size:
            raise ConversionError(f"{tokenizer.file}: the vocabulary has no piece for the byte 0x{byte:02X}")
        kinds[number] = TokenType.BYTE
    scores = _scores(tokenizer, pieces, kinds)
    for number, kind in enumerate(kinds):
        if kind == TokenType.USER_DEFINED:
            # llama.cpp finds these in the text before it replaces the spaces.
            pieces[number] = pieces[number].replace(SPACE, " ")
    return SentencePieces(
        file=tokenizer.file,
        pieces=pieces,
        scores=scores,
        kinds=kinds,
        special=special,
        adds_bos=first is not None,
        adds_eos=last is not None,
        adds_space=adds_space,
    )


def _steps(tokenizer: TokenizerFile) -> list[dict[str, Any]]:
    """Return the normalisers, at least one; empty objects for what is malformed."""
    normalizer = as_object(tokenizer.content.get("normalizer"))
    steps = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    return [as_object(step) for step in steps] if isinstance(steps, list) and steps else [{}]


def _adds_space(tokenizer: TokenizerFile) -> bool:
    """Return whether the first of two normalisers puts a space before each text. Raises ConversionError for others."""
    *before, _ = _steps(tokenizer)
    for step in before:
        tokenizer.require("the normaliser before the last one", step.get("type"), "Prepend")
        tokenizer.require("the prepended text", step.get("prepend"), SPACE)
    tokenizer.require("the number of normalisers", len(before), 0, 1)
    return bool(before)


def _check_pipeline(tokenizer: TokenizerFile) -> None:
    """Raise ConversionError if anything but the replacement of spaces by U+2581 happens before the merges."""
    normalizer = _steps(tokenizer)[-1]
    tokenizer.require("the normaliser", normalizer.get("type"), "Replace")
    tokenizer.require("the normaliser's pattern", as_object(normalizer.get("pattern")).get("String"), " ")
    tokenizer.require("the normaliser's content", normalizer.get("content"), SPACE)
    pre_tokenizer = as_object(tokenizer.content.get("pre_tokenizer"))
    if pre_tokenizer:  # Gemma's splits at spaces, which have been replaced
        tokenizer.require("the pre-tokenizer", pre_tokenizer.get("type"), "Split")
        tokenizer.require("the pre-tokenizer's pattern", as_object(pre_tokenizer.get("pattern")).get("String"), " ")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        tokenizer.require(f"model.{key}", tokenizer.model.get(key), None, "")
    tokenizer.require("model.byte_fallback", tokenizer.model.get("byte_fallback"), True)
    tokenizer.require("model.ignore_merges", tokenizer.model.get("ignore_merges", False), False)


def _scores(tokenizer: TokenizerFile, pieces: list[str], kinds: list[TokenType]) -> list[float]:
    """Return the scores that are equivalent to the merges. Raises ConversionError if there are none."""
    merges = tokenizer.merges()
    ranks: dict[str, int] = {}
    latest = ""
    for left, right in merges:
        piece = left + right
        kind = kinds[tokenizer.vocabulary[piece]] if tokenizer.vocabulary[piece] < len(kinds) else TokenType.UNUSED
        # Runs of spaces share one score in SentencePiece, so their merges may be mixed: any order has the same result.
        if piece in ranks and piece != latest and kind == TokenType.NORMAL and piece.strip(SPACE):
            raise ConversionError(f"{tokenizer.file}: the merges that produce {piece!r} are not adjacent")
        ranks.setdefault(piece, len(ranks))
        latest = piece
    pairs = set(merges)
    normal = {piece for piece, kind in zip(pieces, kinds, strict=True) if kind == TokenType.NORMAL}
    for piece in normal:
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in normal and right in normal and (left, right) not in pairs:
                raise ConversionError(
                    f"{tokenizer.file}: {piece!r} has no merge of {left!r} and {right!r}, but llama.cpp would join them"
                )
    # Characters rank after all merged pieces, as in SentencePiece's files.
    return [
        -float(ranks.get(piece, len(ranks))) if kind in (TokenType.NORMAL, TokenType.BYTE) else _ADDED_SCORE
        for piece, kind in zip(pieces, kinds, strict=True)
    ]
