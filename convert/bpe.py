"""Byte-level BPE vocabularies for llama.cpp's tokenizer `gpt2`.

Algorithm: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, on bytes as in GPT-2. The
pre-tokenizers, which split a text into words before the merges, are built into llama.cpp and selected by name: a tokenizer
whose pattern has no name there is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys, TokenType

from edgeembed_convert.metadata import Metadata
from edgeembed_convert.older_tokenizers import QWEN_PATTERN
from edgeembed_convert.tokenizer_json import TokenizerFile, as_object, is_id, open_tokenizer, single

NORMALIZER_KEY = "edgeembed.tokenizer.normalizer"
"""The normalisation of texts before they are tokenised, which llama.cpp's byte-level BPE does not do."""

# Pattern in tokenizer.json -> llama.cpp's name (`tokenizer.ggml.pre`).
_PATTERNS = {
    QWEN_PATTERN: "qwen2",
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "llama-bpe",
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ): "granite-embed-multi-97m",
}
# Pre-tokenizers with which llama.cpp takes a word that is a piece as it is, whatever the merges make of it.
_IGNORE_MERGES = {"llama-bpe", "granite-embed-multi-97m"}
# The name of the same pattern with which every word is merged.
_MERGING = {"llama-bpe": "dbrx"}


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE vocabulary. `pieces[i]` has the id i; bytes are spelled as in GPT-2."""

    file: Path
    pieces: list[str]
    kinds: list[TokenType]
    merges: list[tuple[str, str]]
    pre_tokenizer: str
    normalizer: str
    """"nfc", or "" for none."""
    special: dict[str, int]
    """Ids of bos, eos, eot, pad, unk and mask, if they exist."""
    adds_bos: bool
    adds_eos: bool

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece; None if it does not exist."""
        return self.pieces.index(piece) if piece in self.pieces else None

    def metadata(self) -> Metadata:
        """Return the `tokenizer.*` keys of the GGUF specification."""
        keys: Metadata = {
            Keys.Tokenizer.MODEL: "gpt2",
            Keys.Tokenizer.PRE: self.pre_tokenizer,
            Keys.Tokenizer.LIST: self.pieces,
            Keys.Tokenizer.TOKEN_TYPE: [int(kind) for kind in self.kinds],
            Keys.Tokenizer.MERGES: [f"{left} {right}" for left, right in self.merges],
            Keys.Tokenizer.ADD_BOS: self.adds_bos,
            Keys.Tokenizer.ADD_EOS: self.adds_eos,
            NORMALIZER_KEY: self.normalizer,
        }
        names = {
            "bos": Keys.Tokenizer.BOS_ID,
            "eos": Keys.Tokenizer.EOS_ID,
            "eot": Keys.Tokenizer.EOT_ID,
            "pad": Keys.Tokenizer.PAD_ID,
            "unk": Keys.Tokenizer.UNK_ID,
            "mask": Keys.Tokenizer.MASK_ID,
        }
        keys |= {names[role]: number for role, number in self.special.items()}
        return keys


def read_byte_bpe(folder: Path, config: Mapping[str, Any], vocab_size: int) -> BytePairs:
    """Return the vocabulary of tokenizer.json and tokenizer_config.json; `config` is config.json, for ids missing there.

    The end token is the one that the post-processor adds; if tokenizer_config.json names a different one, that is the end of
    a turn (eot). Raises ConversionError if something is missing, contradictory, or not supported by llama.cpp's tokenizer.
    """
    tokenizer = open_tokenizer(folder)
    pre_tokenizer = _pre_tokenizer(tokenizer)
    normalizer = as_object(tokenizer.content.get("normalizer")).get("type")
    tokenizer.require("the normaliser", normalizer, None, "NFC")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token", "dropout"):
        tokenizer.require(f"model.{key}", tokenizer.model.get(key), None, "")
    tokenizer.require("model.byte_fallback", tokenizer.model.get("byte_fallback", False), False)
    ignores_merges = tokenizer.model.get("ignore_merges", False)
    merging = _MERGING.get(pre_tokenizer, pre_tokenizer)
    allowed = {pre_tokenizer in _IGNORE_MERGES, merging in _IGNORE_MERGES}
    tokenizer.require("model.ignore_merges", ignores_merges, *allowed)
    if not ignores_merges:
        pre_tokenizer = merging
    front, back = tokenizer.frame()
    pieces, kinds = tokenizer.pieces(vocab_size)

    special = {}
    for role in ("bos", "eos", "pad", "unk", "mask"):
        number = tokenizer.role(role)
        if number is None:
            number = config.get(f"{role}_token_id")
        if is_id(number) and number < vocab_size:
            special[role] = number
    first = single(tokenizer.file, front, "before")
    last = single(tokenizer.file, back, "after")
    if first is not None:
        special["bos"] = first
    if last is not None:
        if special.get("eos", last) != last:
            special["eot"] = special["eos"]
        special["eos"] = last
    for number in special.values():
        # Tokens that end or pad a text must not be matched inside one.
        kinds[number] = TokenType.CONTROL
    return BytePairs(
        file=tokenizer.file,
        pieces=pieces,
        kinds=kinds,
        merges=tokenizer.merges(),
        pre_tokenizer=pre_tokenizer,
        normalizer=(normalizer or "").lower(),
        special=special,
        adds_bos=first is not None,
        adds_eos=last is not None,
    )


def _pre_tokenizer(tokenizer: TokenizerFile) -> str:
    """Return llama.cpp's name of the pre-tokenizer: Split with a known pattern and ByteLevel, or ByteLevel alone (GPT-2)."""
    stored = as_object(tokenizer.content.get("pre_tokenizer"))
    steps = stored.get("pretokenizers")
    kinds = [as_object(step).get("type") for step in steps] if isinstance(steps, list) else stored.get("type")
    if kinds == "ByteLevel":
        tokenizer.require("ByteLevel's add_prefix_space", stored.get("add_prefix_space"), False)
        tokenizer.require("ByteLevel's use_regex", stored.get("use_regex", True), True)
        return "gpt-2"
    tokenizer.require("the pre-tokenizer", kinds, ["Split", "ByteLevel"])
    split, byte_level = stored["pretokenizers"]
    # The patterns leave nothing between two matches, so that both ways are the same.
    how = {"Isolated": False, "Removed": True}
    tokenizer.require("the Split's behavior", split.get("behavior"), *how)
    tokenizer.require("the Split's invert", split.get("invert", False), how[split["behavior"]])
    tokenizer.require("ByteLevel's add_prefix_space", byte_level.get("add_prefix_space"), False)
    tokenizer.require("ByteLevel's use_regex", byte_level.get("use_regex"), False)
    pattern = as_object(split.get("pattern")).get("Regex")
    tokenizer.require("the Split's pattern", pattern, *_PATTERNS)
    return _PATTERNS[str(pattern)]
