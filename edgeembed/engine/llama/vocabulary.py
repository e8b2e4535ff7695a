"""The vocabulary of a loaded model: what its token ids stand for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.reading import Tokens

_LONGEST_PIECE_BYTES = 1024


class Vocabulary:
    """A model's tokens. Its methods may be called from any thread."""

    def __init__(self, vocab: Any, metadata: Callable[[str], str | None]) -> None:
        """vocab: llama.cpp's handle, valid as long as the model. metadata: returns a metadata value of the file, or None."""
        self._vocab = vocab
        # llama.cpp counts the unknown token as a control token, but it stands for a word.
        self._unknown = int(metadata("tokenizer.ggml.unknown_token_id") or -1)
        self.size = int(lib.llama_vocab_n_tokens(vocab))

    def is_special(self, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Return which tokens are special ones, shape (tokens,); their names inside a text were read as plain text."""
        ids, places = np.unique(tokens, return_inverse=True)
        marks = [
            bool(lib.llama_vocab_get_attr(self._vocab, int(id_)) & lib.LLAMA_TOKEN_ATTR_CONTROL) and id_ != self._unknown
            for id_ in ids
        ]
        return np.array(marks, dtype=np.bool_)[places]

    def pieces(self, tokens: Tokens) -> list[str]:
        """Return the text of each token; U+FFFD for a token that is only part of a character."""
        text_of: dict[int, str] = {}
        buffer = ctypes.create_string_buffer(_LONGEST_PIECE_BYTES)
        for token in set(tokens.tolist()):
            length = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            text_of[token] = buffer.raw[: max(0, length)].decode("utf-8", "replace")
        return [text_of[token] for token in tokens.tolist()]
