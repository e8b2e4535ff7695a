"""WordPiece vocabularies (BERT's) for llama.cpp's tokenizer `bert`.

WordPiece marks pieces that continue a word with "##"; llama.cpp marks pieces that begin one with U+2581: "##x" becomes "x",
other pieces get the mark. Its pre-tokenizer and normaliser are fixed, except for lower-casing and the removal of accents; a
tokenizer that needs anything else is rejected, because its vectors would silently differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gguf import Keys, TokenType

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.metadata import Metadata

WORD_START = "\u2581"
_CONTINUES = "##"
_BRACKETED = re.compile(r"\[.*\]")
"""Names of special and unused pieces, which are written in capitals in all vocabularies."""
_LONGEST_WORD = 100
"""What the engine takes without the key (edgeembed/engine/llama/wordpiece.py), and the default of the tokenizers library."""
# Roles in tokenizer_config.json, with the defaults of transformers' BertTokenizer.
_SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


@dataclass(frozen=True)
class WordPiece:
    """A WordPiece vocabulary with its normaliser. `pieces[i]` has the id i, and the spelling of the checkpoint."""

    pieces: list[str]
    kinds: list[TokenType]
    special: dict[str, int]
    """Ids of cls, sep, pad and unk, and of mask if there is one."""
    lowercase: bool
    strip_accents: bool
    longest_word: int = _LONGEST_WORD
    """In characters; a longer word is one unknown token."""

    def metadata(self) -> Metadata:
        """Return the `tokenizer.*` keys of the GGUF specification."""
        keys: Metadata = {
            Keys.Tokenizer.MODEL: "bert",
            Keys.Tokenizer.LIST: [_spell(*pair) for pair in zip(self.pieces, self.kinds, strict=True)],
            Keys.Tokenizer.TOKEN_TYPE: [int(kind) for kind in self.kinds],
            # llama.cpp adds the BOS token in front, which is CLS for BERT. Its default ids are those of bert-base.
            Keys.Tokenizer.BOS_ID: self.special["cls"],
            "tokenizer.ggml.cls_token_id": self.special["cls"],
            Keys.Tokenizer.SEP_ID: self.special["sep"],
            Keys.Tokenizer.PAD_ID: self.special["pad"],
            Keys.Tokenizer.UNK_ID: self.special["unk"],
            Keys.Tokenizer.ADD_BOS: True,
            Keys.Tokenizer.ADD_EOS: False,
            Keys.Tokenizer.ADD_SEP: True,
            "tokenizer.ggml.normalizer.lowercase": self.lowercase,
            "tokenizer.ggml.normalizer.strip_accents": self.strip_accents,
        }
        if self.longest_word != _LONGEST_WORD:
            keys["edgeembed.tokenizer.longest_word"] = self.longest_word
        if "mask" in self.special:
            keys[Keys.Tokenizer.MASK_ID] = self.special["mask"]
        return keys


def _spell(piece: str, kind: TokenType) -> str:
    if kind != TokenType.NORMAL:
        return piece
    return piece[len(_CONTINUES) :] if piece.startswith(_CONTINUES) else WORD_START + piece


def read_wordpiece(folder: Path, vocab_size: int, *, lowercases_input: bool) -> WordPiece:
    """Return the vocabulary of tokenizer.json, or else of vocab.txt with tokenizer_config.json.

    Raises ConversionError if both are missing or they contradict each other, if the vocabulary does not have exactly
    `vocab_size` pieces, or if llama.cpp's tokenizer does not support it.
    """
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    if (folder / "tokenizer.json").is_file():
        file = folder / "tokenizer.json"
        content = read_json(file)
        ids, unk = _ids_of_json(content, file)
        normalizer = _normalizer_of_json(content, file)
        _check_agreement(normalizer, config, file, config_file)
    elif (folder / "vocab.txt").is_file():
        file = folder / "vocab.txt"
        content = {}
        ids, unk = _ids_of_text(file), None
        normalizer = _normalizer_of_config(config, config_file, ids)
    else:
        raise ConversionError(f"{folder}: no tokenizer: neither tokenizer.json nor vocab.txt exists")

    added = _added_tokens(content, config, file)
    for piece, (number, _) in added.items():
        if ids.setdefault(piece, number) != number:
            raise ConversionError(
                f"{file}: the added token {piece!r} has the id {number}, but {ids[piece]} in the vocabulary"
            )
    _check_added_tokens(content, config, normalizer, file)
    pieces = _in_order(ids, vocab_size, file)
    special = _special_ids(_special_names(folder, config, unk), ids, file)
    if content:
        _check_template(content, special, file)

    kinds = [TokenType.NORMAL] * vocab_size
    for number, is_special in added.values():
        kinds[number] = TokenType.CONTROL if is_special else TokenType.USER_DEFINED
    for number in special.values():
        kinds[number] = TokenType.CONTROL

    lowercase, strip_accents = normalizer["lowercase"], normalizer["strip_accents"]
    return WordPiece(
        pieces=pieces,
        kinds=kinds,
        special=special,
        lowercase=lowercase or lowercases_input,
        # The default is the value of lowercase (tokenizers' BertNormalizer).
        strip_accents=lowercase if strip_accents is None else strip_accents,
        longest_word=_longest_word(content, file),
    )


def _longest_word(content: dict[str, Any], file: Path) -> int:
    found = _object(content.get("model")).get("max_input_chars_per_word", _LONGEST_WORD)
    if not _is_id(found) or not 1 <= found < 2**31:
        raise ConversionError(f"{file}: model.max_input_chars_per_word = {found!r} is not a number of characters")
    return found


def _ids_of_json(content: dict[str, Any], file: Path) -> tuple[dict[str, int], str]:
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        kind = model.get("type") if isinstance(model, dict) else None
        raise ConversionError(f"{file}: the tokenizer's model is {kind!r}; expected WordPiece")
    if model.get("continuing_subword_prefix", _CONTINUES) != _CONTINUES:
        raise ConversionError(f"{file}: continuing_subword_prefix is {model['continuing_subword_prefix']!r}; expected '##'")
    pre_tokenizer = content.get("pre_tokenizer")
    if not isinstance(pre_tokenizer, dict) or pre_tokenizer.get("type") != "BertPreTokenizer":
        raise ConversionError(
            f"{file}: the pre-tokenizer is not supported; for WordPiece, llama.cpp supports only BertPreTokenizer"
        )
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(_is_id(number) for number in vocab.values()):
        raise ConversionError(f"{file}: model.vocab must be an object that maps pieces to ids")
    return dict(vocab), str(model.get("unk_token", _SPECIAL["unk"]))


def _ids_of_text(file: Path) -> dict[str, int]:
    ids: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                piece = line.removesuffix("\n")
                if ids.setdefault(piece, number) != number:
                    raise ConversionError(f"{file}: lines {ids[piece] + 1} and {number + 1} have the same piece {piece!r}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{file}: cannot be read: {error}") from error
    return ids


def _normalizer_of_json(content: dict[str, Any], file: Path) -> dict[str, Any]:
    normalizer = content.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise ConversionError(
            f"{file}: the normaliser is not supported; for WordPiece, llama.cpp supports only BertNormalizer"
        )
    for key in ("clean_text", "handle_chinese_chars"):
        if normalizer.get(key, True) is not True:
            raise ConversionError(
                f"{file}: normaliser {key} = {normalizer[key]!r} is not supported; llama.cpp always does this"
            )
    return _casing(normalizer.get("lowercase", True), normalizer.get("strip_accents"), file)


def _normalizer_of_config(config: dict[str, Any], file: Path, ids: Mapping[str, int]) -> dict[str, Any]:
    # BertTokenizer lower-cases by default, but so it would with a cased vocabulary whose file is lost.
    capitals = next((piece for piece in ids if not _BRACKETED.fullmatch(piece) and piece != piece.lower()), None)
    if "do_lower_case" not in config and capitals:
        raise ConversionError(
            f"{file}: do_lower_case is missing, and vocab.txt has capitals ({capitals!r}), so it is unknown whether texts "
            'are lower-cased. Write {"do_lower_case": false} into that file if the model is cased'
        )
    if config.get("tokenize_chinese_chars", True) is not True:
        raise ConversionError(f"{file}: tokenize_chinese_chars = false is not supported; llama.cpp always does this")
    return _casing(config.get("do_lower_case", True), config.get("strip_accents"), file)


def _casing(lowercase: Any, strip_accents: Any, file: Path) -> dict[str, Any]:
    if not isinstance(lowercase, bool) or not (strip_accents is None or isinstance(strip_accents, bool)):
        raise ConversionError(f"{file}: the normaliser's lowercase and strip_accents must be true or false")
    return {"lowercase": lowercase, "strip_accents": strip_accents}


def _check_agreement(normalizer: dict[str, Any], config: dict[str, Any], file: Path, config_file: Path) -> None:
    """Raise ConversionError if the files contradict each other: transformers' versions differ in which one they follow."""
    for key, name in (("lowercase", "do_lower_case"), ("strip_accents", "strip_accents")):
        if config.get(name) is not None and normalizer[key] is not None and config[name] != normalizer[key]:
            raise ConversionError(f"{config_file}: {name} = {config[name]!r}, but {file.name} says {normalizer[key]!r}")


def _added_entries(content: dict[str, Any], config: dict[str, Any]) -> list[Any]:
    decoder = config.get("added_tokens_decoder")
    if content:
        entries = content.get("added_tokens") or []
    elif isinstance(decoder, dict):
        entries = [{"id": int(key) if key.isdecimal() else None, **_object(entry)} for key, entry in decoder.items()]
    else:
        entries = []
    return entries if isinstance(entries, list) else [entries]


def _check_added_tokens(content: dict[str, Any], config: dict[str, Any], normalizer: dict[str, Any], file: Path) -> None:
    """Raise ConversionError for added tokens that would be found in other places than in the reference.

    Ours are found as they are written, before a text is normalised: one that the reference finds after that, or whose text
    is a word of the vocabulary, too, must not have letters that the normaliser changes.
    """
    vocabulary = _object(_object(content.get("model")).get("vocab"))
    for entry in _added_entries(content, config):
        piece = entry["content"]
        if entry.get("special"):
            continue
        check_whole_word(entry, file)
        changes = not piece.isascii() or (normalizer["lowercase"] and piece.lower() != piece.upper())
        if changes and (entry.get("normalized") or piece in vocabulary):
            raise ConversionError(
                f"{file}: the added token {piece!r} is found in normalised texts, in capitals or with accents, too, which "
                "is not supported. If the model needs it, add it with normalized = false and not as a word of model.vocab"
            )


def check_whole_word(entry: Mapping[str, Any], file: Path) -> None:
    """Raise ConversionError for an added token that is found only as a whole word."""
    if entry.get("single_word"):
        raise ConversionError(
            f"{file}: the added token {entry.get('content')!r} has single_word = true, which is not supported by GGUF"
        )


def _added_tokens(content: dict[str, Any], config: dict[str, Any], file: Path) -> dict[str, tuple[int, bool]]:
    """Return piece -> (id, whether it is special) of the tokens that were added to the WordPiece model."""
    found: dict[str, tuple[int, bool]] = {}
    for entry in _added_entries(content, config):
        piece, number = _object(entry).get("content"), _object(entry).get("id")
        if not isinstance(piece, str) or not _is_id(number):
            raise ConversionError(f"{file}: added token without content or id: {entry!r}")
        found[piece] = (number, bool(entry.get("special")))
    return found


def _special_names(folder: Path, config: dict[str, Any], unk: str | None) -> dict[str, str]:
    """Return the piece of each role: from special_tokens_map.json, tokenizer_config.json or BertTokenizer's defaults."""
    file = folder / "special_tokens_map.json"
    mapping = read_json(file) if file.is_file() else {}
    names = {}
    for role, default in _SPECIAL.items():
        value = mapping.get(f"{role}_token") or config.get(f"{role}_token") or default
        names[role] = str(_object(value).get("content") if isinstance(value, dict) else value)
    if unk is not None and names["unk"] != unk:
        raise ConversionError(
            f"{folder}: the unk token is {unk!r} in tokenizer.json, but {names['unk']!r} in the other files"
        )
    return names


def _special_ids(names: Mapping[str, str], ids: Mapping[str, int], file: Path) -> dict[str, int]:
    """Return the id of each role. Raises ConversionError if one other than mask is not in the vocabulary."""
    special = {}
    for role, piece in names.items():
        if piece in ids:
            special[role] = ids[piece]
        elif role != "mask":
            raise ConversionError(f"{file}: the {role} token {piece!r} is not in the vocabulary")
    return special


def _in_order(ids: Mapping[str, int], vocab_size: int, file: Path) -> list[str]:
    if len(ids) != vocab_size:
        raise ConversionError(f"{file}: {len(ids)} pieces, but vocab_size in config.json is {vocab_size}")
    pieces: list[str | None] = [None] * vocab_size
    for piece, number in ids.items():
        if number >= vocab_size or pieces[number] is not None:
            raise ConversionError(f"{file}: the id {number} of {piece!r} is out of range or not unique")
        pieces[number] = piece
    return [piece for piece in pieces if piece is not None]


def _check_template(content: dict[str, Any], special: dict[str, int], file: Path) -> None:
    """Raise ConversionError unless a text becomes CLS, text, SEP, the only format that llama.cpp has for WordPiece."""
    processor = _object(content.get("post_processor"))
    found: list[Any] = []
    if processor.get("type") in ("BertProcessing", "RobertaProcessing"):  # they differ in pairs only
        for key in ("cls", "sep"):
            pair = processor.get(key)
            found.append(pair[1] if isinstance(pair, list) and len(pair) == 2 else None)
        found.insert(1, "text")
    elif processor.get("type") == "TemplateProcessing":
        tokens = _object(processor.get("special_tokens"))
        for part in _list(processor.get("single")):
            if "Sequence" in _object(part):
                found.append("text")
            else:
                name = _object(_object(part).get("SpecialToken")).get("id")
                found.extend(_list(_object(tokens.get(str(name))).get("ids")) or [None])
    if found != [special["cls"], "text", special["sep"]]:
        raise ConversionError(
            f"{file}: the post-processor is not supported; llama.cpp always makes CLS, text, SEP of a text"
        )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
