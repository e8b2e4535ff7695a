"""The vocabulary of a loaded model: what its token ids stand for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.reading import Tokens

_LONGEST_PIECE_BYTES = 1024
_UNKNOWN = {"bert": 100, "llama": 0, "t5": 2}
"""What llama.cpp (0c1e57098) takes where the file does not name the unknown token, by the kind of tokenizer."""
_MARK = "\u2581".encode()
_STRIPS = lib.LLAMA_TOKEN_ATTR_LSTRIP | lib.LLAMA_TOKEN_ATTR_RSTRIP


class Vocabulary:
    """A model's tokens. Its methods may be called from any thread."""

    def __init__(self, vocab: Any, metadata: Callable[[str], str | None]) -> None:
        """vocab: llama.cpp's handle, valid as long as the model. metadata: returns a metadata value of the file, or None."""
        self.handle = vocab
        # llama.cpp counts the unknown token as a control token, but it stands for a word.
        unknown = metadata("tokenizer.ggml.unknown_token_id")
        self.unknown = _UNKNOWN.get(metadata("tokenizer.ggml.model") or "", -1) if unknown is None else int(unknown)
        """Id of the token for what has no other; -1 if there is none."""
        self._model = metadata("tokenizer.ggml.model") or ""
        # Byte-level BPE has its spaces in the text; the others begin a text with one.
        self._adds_space = self._model in _UNKNOWN and metadata("tokenizer.ggml.add_space_prefix") != "false"
        self.size = int(lib.llama_vocab_n_tokens(vocab))

    def is_special(self, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Return which tokens are special ones, shape (tokens,); their names inside a text were read as plain text."""
        ids, places = np.unique(tokens, return_inverse=True)
        marks = [
            bool(lib.llama_vocab_get_attr(self.handle, int(id_)) & lib.LLAMA_TOKEN_ATTR_CONTROL) and id_ != self.unknown
            for id_ in ids
        ]
        return np.array(marks, dtype=np.bool_)[places]

    def defined_tokens(self) -> dict[str, int]:
        """Return the ids of the tokens that are found in a text before it is tokenised, by their text.

        Empty when llama.cpp would strip spaces around one: such a vocabulary is left to it.
        """
        attributes = [lib.llama_vocab_get_attr(self.handle, id_) for id_ in range(self.size)]
        ids = [id_ for id_, attribute in enumerate(attributes) if attribute & lib.LLAMA_TOKEN_ATTR_USER_DEFINED]
        if any(attributes[id_] & _STRIPS for id_ in ids):
            return {}
        found = {lib.llama_vocab_get_text(self.handle, id_).decode("utf-8", "replace"): id_ for id_ in reversed(ids)}
        found.pop("", None)
        return found

    def spellings(self) -> Iterator[str]:
        """Yield all tokens as the file has them; a space is U+2581 in most vocabularies."""
        for id_ in range(self.size):
            yield lib.llama_vocab_get_text(self.handle, id_).decode("utf-8", "replace")

    def pieces(self, tokens: Tokens) -> list[bytes]:
        """Return the spelling of each token in UTF-8, which may be part of a character; a special token's name."""
        piece_of: dict[int, bytes] = {}
        buffer = ctypes.create_string_buffer(_LONGEST_PIECE_BYTES)
        for token in set(tokens.tolist()):
            if self._model == "bert":
                piece_of[token] = _of_wordpiece(lib.llama_vocab_get_text(self.handle, token))
            else:
                length = lib.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, True)
                piece_of[token] = buffer.raw[: max(0, length)]
        return [piece_of[token] for token in tokens.tolist()]

    def decode(self, tokens: Tokens, *, special: bool) -> str:
        """Return the text that tokens stand for, as the tokenizers library joins them; U+FFFD for parts of characters.

        special: with the names of special tokens, and of the one for unknown words, which are left out otherwise.
        """
        named = self.is_special(tokens) | (tokens == self.unknown)
        if not special:
            tokens, named = tokens[~named], named[~named]
        pieces = self.pieces(tokens)
        if self._model == "bert":
            pieces = [_word(piece, name) for piece, name in zip(pieces, named.tolist(), strict=True)]
        joined = b"".join(pieces).decode("utf-8", "replace")
        return joined.removeprefix(" ") if self._adds_space else joined


def _of_wordpiece(spelling: bytes) -> bytes:
    """Return the spelling of a token of WordPiece, with a space for the mark of a word's beginning."""
    return b" " + spelling[len(_MARK) :] if spelling.startswith(_MARK) and spelling != _MARK else spelling


def _word(piece: bytes, named: bool) -> bytes:
    """Return a token of WordPiece as it is joined to what is before it: words are separated, but for some punctuation."""
    return b" " + piece if named else piece.lstrip() if piece in (b" .", b" ,", b" ?", b" !") else piece
