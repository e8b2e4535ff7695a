"""tokenizer.json and tokenizer_config.json, above all of BPE tokenizers, byte-level or SentencePiece-like.

Format: `Tokenizer.save` of huggingface/tokenizers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gguf import TokenType

from edgeembed.errors import ConversionError
from edgeembed_convert.ignored import adds_by_flags
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.older_tokenizers import VOCABULARY, find_file, older_tokenizer
from edgeembed_convert.template import read_templates

# Vocabularies are padded for speed, Qwen's by up to 399. More means that the tokenizer belongs to another model.
_MAX_UNUSED = 1024
# Of the tables that `count_pieces` is for.
_PADDING = 64
# Classes of transformers 4 that put the tokens of `add_bos_token`, by default set, and `add_eos_token` around a text,
# whatever the post-processor says.
_BY_FLAGS = {"LlamaTokenizer", "LlamaTokenizerFast"}


@dataclass(frozen=True)
class TokenizerFile:
    """An opened tokenizer.json whose model is BPE."""

    file: Path
    content: dict[str, Any]
    config: dict[str, Any]
    """tokenizer_config.json; empty if there is none."""
    vocabulary: dict[str, int]
    """Piece -> id, including added tokens."""
    added: dict[str, dict[str, Any]]
    """Piece -> entry of the tokens that were added to the model."""

    @property
    def model(self) -> dict[str, Any]:
        """The BPE model: vocabulary, merges, flags."""
        return as_object(self.content.get("model"))

    def pieces(self, vocab_size: int, *, drop_beyond: bool = False) -> tuple[list[str], list[TokenType]]:
        """Return text and kind of each id below `vocab_size`; ids without a piece are UNUSED.

        drop_beyond: ignore added tokens beyond `vocab_size` instead of rejecting them.
        Raises ConversionError if the ids do not match `vocab_size`.
        """
        pieces: list[str | None] = [None] * vocab_size
        for piece, number in self.vocabulary.items():
            if number >= vocab_size and drop_beyond and piece in self.added:
                continue
            if number >= vocab_size or pieces[number] is not None:
                raise ConversionError(
                    f"{self.file}: the id {number} of {piece!r} is not unique, or not below vocab_size {vocab_size}"
                )
            pieces[number] = piece
        unused = pieces.count(None)
        if unused > _MAX_UNUSED:
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
        # Some checkpoints do not mark all control tokens as special (Qwen's <|fim_prefix|>); like llama.cpp's converter, we
        # recognise them by their spelling. CONTROL tokens are never matched in a user's text, USER_DEFINED ones always.
        if entry.get("special") or _looks_special(piece):
            return TokenType.CONTROL
        composes = as_object(self.content.get("normalizer")).get("type") == "NFC"
        if composes and entry.get("normalized") and unicodedata.normalize("NFC", piece) != piece:
            raise ConversionError(f"{self.file}: the added token {piece!r} is not in Unicode's form NFC, so no text has it")
        for flag in ("lstrip", "rstrip", "single_word"):
            if entry.get(flag):
                raise ConversionError(
                    f"{self.file}: the added token {piece!r} has {flag} = true, which is not supported by GGUF"
                )
        return TokenType.USER_DEFINED

    def frame(self) -> tuple[list[int], list[int]]:
        """Return the ids that are added before and after a text: by the post-processor, or as the class does it.

        Raises ConversionError if anything else is done to the text.
        """
        around = self._post_processed()
        flags = self.config.keys() & {"add_bos_token", "add_eos_token"}
        by_code, by_class = adds_by_flags(self.config), str(self.config.get("tokenizer_class")) in _BY_FLAGS
        if not flags or not (by_code or by_class):
            return around
        adds = (self.config.get("add_bos_token", not by_code), self.config.get("add_eos_token", False))
        front, back = ([self.required_role(role)] if flag else [] for role, flag in zip(("bos", "eos"), adds, strict=True))
        return front, back

    def _post_processed(self) -> tuple[list[int], list[int]]:
        processor = as_object(self.content.get("post_processor"))
        steps = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
        around: tuple[list[int], list[int]] = ([], [])
        for step in map(as_object, steps if isinstance(steps, list) else [steps]):
            if step.get("type") == "ByteLevel" or not step:  # ByteLevel only corrects offsets
                continue
            template, _ = read_templates({"post_processor": step}, self.file)
            if around != ([], []) or template.count("A") != 1 or "B" in template:
                raise ConversionError(f"{self.file}: the post-processor is not supported; expected a template with one text")
            at = template.index("A")
            front, back = template[:at], template[at + 1 :]
            around = [int(number) for number in front], [int(number) for number in back]
        if any(number not in self.vocabulary.values() for number in (*around[0], *around[1])):
            raise ConversionError(f"{self.file}: the post-processor adds tokens that are not in the vocabulary: {around}")
        return around

    def role(self, name: str) -> int | None:
        """Return the id of the token for a role (bos, eos, pad, unk) in tokenizer_config.json; None if it has none."""
        value = self.config.get(f"{name}_token")
        piece = value.get("content") if isinstance(value, dict) else value
        if piece is None:
            return None
        if not isinstance(piece, str) or piece not in self.vocabulary:
            raise ConversionError(f"{self.file}: the {name} token {piece!r} is not in the vocabulary")
        return self.vocabulary[piece]

    def required_role(self, name: str) -> int:
        """Return the id of the token for a role. Raises ConversionError if it has none."""
        number = self.role(name)
        if number is None:
            raise ConversionError(f"{self.file}: add_{name}_token is set, but there is no {name}_token")
        return number

    def merges(self) -> list[tuple[str, str]]:
        """Return the merges in order. Raises ConversionError for one that is not a pair or produces an unknown piece."""
        found = []
        entries = self.model.get("merges")
        if not isinstance(entries, list):
            raise ConversionError(f"{self.file}: model.merges is not a list")
        for entry in entries:
            # One string in older files, a list of two in newer ones.
            pair: Any = entry.split(" ") if isinstance(entry, str) else entry
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
                raise ConversionError(f"{self.file}: the merge {entry!r} is not a pair of pieces")
            left, right = pair
            if left + right not in self.vocabulary:
                raise ConversionError(f"{self.file}: the merge {entry!r} produces a piece that is not in the vocabulary")
            found.append((left, right))
        return found

    def require(self, what: str, value: Any, *allowed: Any) -> None:
        """Raise ConversionError unless the value of a part of the tokenizer is one that llama.cpp supports."""
        if value not in allowed:
            raise ConversionError(f"{self.file}: {what} = {value!r} is not supported by llama.cpp's tokenizer")


def read_tokenizer_files(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return tokenizer.json with its content, and the content of tokenizer_config.json; empty if that does not exist.

    If tokenizer.json is missing, what it would say comes from older files: see `older_tokenizers`. Raises ConversionError.
    """
    file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.is_file():
        return older_tokenizer(folder)
    return file, read_json(file), read_json(config_file) if config_file.is_file() else {}


def open_tokenizer(folder: Path) -> TokenizerFile:
    """Read tokenizer.json, which must contain a BPE model, and tokenizer_config.json, or the older files.

    Raises ConversionError if they are missing or malformed, or if they contradict each other.
    """
    file, content, config = read_tokenizer_files(folder)
    config_file = folder / "tokenizer_config.json"
    model = as_object(content.get("model"))
    if model.get("type", "BPE") != "BPE":
        raise ConversionError(f"{file}: the tokenizer's model is {model.get('type')!r}; expected BPE")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab or not all(is_id(number) for number in vocab.values()):
        raise ConversionError(f"{file}: model.vocab must be an object that maps pieces to ids")
    vocabulary = dict(vocab)
    added: dict[str, dict[str, Any]] = {}
    entries = content.get("added_tokens") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        piece, number = as_object(entry).get("content"), as_object(entry).get("id")
        if not isinstance(piece, str) or not piece or not is_id(number):
            raise ConversionError(f"{file}: added token without content or id: {entry!r}")
        if vocabulary.setdefault(piece, number) != number:
            raise ConversionError(
                f"{file}: the added token {piece!r} has the id {number}, not {vocabulary[piece]} as in model.vocab"
            )
        added[piece] = entry
    for key, entry in as_object(config.get("added_tokens_decoder")).items():
        piece = as_object(entry).get("content")
        if not isinstance(piece, str) or piece not in vocabulary or str(vocabulary[piece]) != key:
            raise ConversionError(f"{config_file}: the added token {piece!r} has the id {key}, but not in {file.name}")
    return TokenizerFile(file, content, config, vocabulary, added)


def model_type(folder: Path) -> str:
    """Return the type of the model in tokenizer.json: BPE, Unigram or WordPiece; empty if the type is missing.

    Without that file, it is that of the older files; empty if there is vocab.txt. Raises ConversionError if it is malformed.
    """
    file = folder / "tokenizer.json"
    older = find_file(folder)
    if not file.is_file() and older is not None and not (folder / "vocab.txt").is_file():
        return "BPE" if older.name == VOCABULARY else "Unigram"
    found = as_object(read_json(file).get("model")).get("type") if file.is_file() else None
    return found if isinstance(found, str) else ""


def count_pieces(folder: Path, rows: int) -> int:
    """Return the size of the vocabulary of a model whose table of embeddings has `rows`: padded to a multiple of 64.

    Raises ConversionError if they do not belong together.
    """
    file, text = folder / "tokenizer.json", folder / "vocab.txt"
    count = rows  # if both are missing, reading the tokenizer raises ConversionError
    if file.is_file():
        content = read_json(file)
        vocab, added = as_object(content.get("model")).get("vocab"), content.get("added_tokens")
        ids = [as_object(entry).get("id") for entry in added] if isinstance(added, list) else []
        # Unigram has a list.
        ids += vocab.values() if isinstance(vocab, dict) else range(len(vocab)) if isinstance(vocab, list) else []
        count = max((number + 1 for number in ids if isinstance(number, int)), default=rows)
    elif text.is_file():
        count = len(text.read_text(encoding="utf-8", errors="replace").splitlines())
    if not 0 <= rows - count < _PADDING:
        raise ConversionError(f"{folder}: the tokenizer has {count} pieces, but vocab_size in config.json is {rows}")
    return count


def token_ids(folder: Path) -> dict[str, int]:
    """Return the id of each token in tokenizer.json or else vocab.txt. Raises ConversionError if both are missing."""
    text = folder / "vocab.txt"
    if not (folder / "tokenizer.json").is_file() and text.is_file():
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        return {line: number for number, line in enumerate(lines)}
    content = read_json(folder / "tokenizer.json")
    vocab, added = as_object(content.get("model")).get("vocab"), content.get("added_tokens")
    if isinstance(vocab, list):  # Unigram: pairs of a piece and its score
        vocab = {str(entry[0]): number for number, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    ids = {str(as_object(entry).get("content")): as_object(entry).get("id") for entry in added or []}
    return {token: number for token, number in (as_object(vocab) | ids).items() if is_id(number)}


def has_byte_pieces(folder: Path) -> bool:
    """Return whether tokenizer.json is BPE over characters, with bytes for unknown ones. Raises ConversionError."""
    file = folder / "tokenizer.json"
    return file.is_file() and as_object(read_json(file).get("model")).get("byte_fallback") is True


def single(file: Path, ids: Sequence[int], where: str) -> int | None:
    """Return the id that is added at one end of a text, if any. Raises ConversionError for several."""
    if len(ids) > 1:
        raise ConversionError(f"{file}: the post-processor adds {len(ids)} tokens {where} a text; GGUF supports one")
    return ids[0] if ids else None


def _looks_special(piece: str) -> bool:
    return piece in {"<pad>", "<mask>"} or (piece[:2], piece[-2:]) == ("<|", "|>") or piece.startswith("<unused")


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def is_id(value: Any) -> TypeGuard[int]:
    """Return whether a JSON value is a valid token id."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
