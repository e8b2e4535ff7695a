"""What the ids of a loaded model's vocabulary stand for."""

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
        """Read what does not change. vocab: llama.cpp's handle, valid as long as the model is."""
        self._vocab = vocab
        # llama.cpp calls it a control token, but it stands for a word.
        self._unknown = int(metadata("tokenizer.ggml.unknown_token_id") or -1)
        self.size = int(lib.llama_vocab_n_tokens(vocab))

    def special(self, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Say which tokens are marks, shape (tokens,); what looks like one inside a text was read as text."""
        ids, places = np.unique(tokens, return_inverse=True)
        marks = [
            bool(lib.llama_vocab_get_attr(self._vocab, int(id_)) & lib.LLAMA_TOKEN_ATTR_CONTROL) and id_ != self._unknown
            for id_ in ids
        ]
        return np.array(marks, dtype=np.bool_)[places]

    def written(self, tokens: Tokens) -> list[str]:
        """Give the text of each token; a token that is part of a character has U+FFFD."""
        known: dict[int, str] = {}
        buffer = ctypes.create_string_buffer(_LONGEST_PIECE_BYTES)
        for token in set(tokens.tolist()):
            length = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            known[token] = buffer.raw[: max(0, length)].decode("utf-8", "replace")
        return [known[token] for token in tokens.tolist()]
