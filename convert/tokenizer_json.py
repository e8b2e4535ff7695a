"""tokenizer.json and tokenizer_config.json of BPE tokenizers: what byte-level and SentencePiece-like ones have in common.

Format: the JSON that huggingface/tokenizers saves (`Tokenizer.save`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gguf import TokenType

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.template import read_templates

# Vocabularies are padded to some multiple for speed; Qwen pads by up to 399. More is a tokenizer of another model.
_MOST_UNUSED = 1024


@dataclass(frozen=True)
class TokenizerFile:
    """An opened tokenizer.json whose model is BPE."""

    file: Path
    content: dict[str, Any]
    config: dict[str, Any]
    """tokenizer_config.json; empty when there is none."""
    vocabulary: dict[str, int]
    """Piece to id, those of the added tokens included."""
    added: dict[str, dict[str, Any]]
    """Piece to entry of the tokens that lie beside the model."""

    @property
    def model(self) -> dict[str, Any]:
        """The BPE model: vocabulary, merges, flags."""
        return as_object(self.content.get("model"))

    def pieces(self, vocab_size: int, *, drop_beyond: bool = False) -> tuple[list[str], list[TokenType]]:
        """Give text and kind of each id below `vocab_size`; ids without a piece are UNUSED.

        `drop_beyond`: leave out added tokens whose id the model has no row for, instead of refusing them.
        Raises ConversionError when ids and `vocab_size` do not belong together.
        """
        pieces: list[str | None] = [None] * vocab_size
        for piece, number in self.vocabulary.items():
            if number >= vocab_size and drop_beyond and piece in self.added:
                continue
            if number >= vocab_size or pieces[number] is not None:
                raise ConversionError(
                    f"{self.file}: the id {number} of {piece!r} is taken twice, or beyond vocab_size {vocab_size}"
                )
            pieces[number] = piece
        unused = pieces.count(None)
        if unused > _MOST_UNUSED:
            raise ConversionError(
                f"{self.file}: {vocab_size - unused} pieces, but vocab_size in config.json is {vocab_size}:"
                " this tokenizer belongs to another model"
            )
        kinds = [TokenType.UNUSED if piece is None else self._kind(piece) for piece in pieces]
        return [f"[PAD{number}]" if piece is None else piece for number, piece in enumerate(pieces)], kinds

    def _kind(self, piece: str) -> TokenType:
        entry = self.added.get(piece)
        if entry is None:
            return TokenType.NORMAL
        # Some checkpoints do not mark all their control tokens as special (Qwen's <|fim_prefix|>); llama.cpp's converter
        # goes by the look, too. CONTROL tokens are never found in a user's text, USER_DEFINED ones always.
        if entry.get("special") or _looks_special(piece):
            return TokenType.CONTROL
        for flag in ("lstrip", "rstrip", "single_word"):
            if entry.get(flag):
                raise ConversionError(f"{self.file}: the added token {piece!r} has {flag} = true, which GGUF cannot express")
        return TokenType.USER_DEFINED

    def frame(self) -> tuple[list[int], list[int]]:
        """Give the ids that the post-processor puts in front of a text and behind it.

        Raises ConversionError for a post-processor that does anything else.
        """
        processor = as_object(self.content.get("post_processor"))
        steps = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
        around: tuple[list[int], list[int]] = ([], [])
        for step in map(as_object, steps if isinstance(steps, list) else [steps]):
            if step.get("type") == "ByteLevel" or not step:  # ByteLevel mends offsets and adds nothing
                continue
            template, _ = read_templates({"post_processor": step}, self.file)
            if around != ([], []) or template.count("A") != 1 or "B" in template:
                raise ConversionError(f"{self.file}: the post-processor does not put a text into one template, once")
            at = template.index("A")
            front, back = template[:at], template[at + 1 :]
            around = [int(number) for number in front], [int(number) for number in back]
        if any(number not in self.vocabulary.values() for number in (*around[0], *around[1])):
            raise ConversionError(f"{self.file}: the post-processor adds tokens that are not in the vocabulary: {around}")
        return around

    def role(self, name: str) -> int | None:
        """Give the id of the token that tokenizer_config.json names for a role (bos, eos, pad, unk), if it names one."""
        value = self.config.get(f"{name}_token")
        piece = value.get("content") if isinstance(value, dict) else value
        if piece is None:
            return None
        if piece not in self.vocabulary:
            raise ConversionError(f"{self.file}: the {name} token {piece!r} is not in the vocabulary")
        return self.vocabulary[piece]

    def merges(self) -> list[tuple[str, str]]:
        """Give the merges, best first. Raises ConversionError for one that is not a pair or makes an unknown piece."""
        found = []
        entries = self.model.get("merges")
        if not isinstance(entries, list):
            raise ConversionError(f"{self.file}: model.merges is not a list")
        for entry in entries:
            # One string in older files, two in newer ones.
            pair: Any = entry.split(" ") if isinstance(entry, str) else entry
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
                raise ConversionError(f"{self.file}: the merge {entry!r} is not a pair of pieces")
            left, right = pair
            if left + right not in self.vocabulary:
                raise ConversionError(f"{self.file}: the merge {entry!r} makes a piece that is not in the vocabulary")
            found.append((left, right))
        return found

    def require(self, what: str, value: Any, *allowed: Any) -> None:
        """Raise ConversionError when a part of the tokenizer is not one of those that llama.cpp can do."""
        if value not in allowed:
            raise ConversionError(f"{self.file}: {what} = {value!r} is not what llama.cpp's tokenizer does")


def open_tokenizer(folder: Path) -> TokenizerFile:
    """Read tokenizer.json, which must hold a BPE model, and tokenizer_config.json.

    Raises ConversionError when it is missing or malformed, or when the two files contradict each other.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConversionError(f"{folder}: no tokenizer here: tokenizer.json is missing")
    content = read_json(file)
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    model = as_object(content.get("model"))
    if model.get("type", "BPE") != "BPE":
        raise ConversionError(f"{file}: the tokenizer's model is {model.get('type')!r}; BPE was expected")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab or not all(is_id(number) for number in vocab.values()):
        raise ConversionError(f"{file}: model.vocab is not an object of piece to id")
    vocabulary = dict(vocab)
    added: dict[str, dict[str, Any]] = {}
    entries = content.get("added_tokens") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        piece, number = as_object(entry).get("content"), as_object(entry).get("id")
        if not isinstance(piece, str) or not piece or not is_id(number):
            raise ConversionError(f"{file}: an added token without content or id: {entry!r}")
        if vocabulary.setdefault(piece, number) != number:
            raise ConversionError(
                f"{file}: the added token {piece!r} has the id {number}, not {vocabulary[piece]} as in model.vocab"
            )
        added[piece] = entry
    for key, entry in as_object(config.get("added_tokens_decoder")).items():
        piece = as_object(entry).get("content")
        if piece not in vocabulary or str(vocabulary[piece]) != key:
            raise ConversionError(f"{config_file}: the added token {piece!r} has the id {key}, but not in {file.name}")
    return TokenizerFile(file, content, config, vocabulary, added)


def single(file: Path, ids: Sequence[int], where: str) -> int | None:
    """Give the one id that the tokenizer adds at this end, if any: GGUF cannot say more."""
    if len(ids) > 1:
        raise ConversionError(f"{file}: the post-processor adds {len(ids)} tokens {where} a text; GGUF can express one")
    return ids[0] if ids else None


def _looks_special(piece: str) -> bool:
    return piece in {"<pad>", "<mask>"} or (piece[:2], piece[-2:]) == ("<|", "|>") or piece.startswith("<unused")


def as_object(value: Any) -> dict[str, Any]:
    """Give a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def is_id(value: Any) -> TypeGuard[int]:
    """Say whether a JSON value can be a token's id."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
