"""Scores of a converted reranker, computed by llama.cpp without the daemon's engine: one context, one pair at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np

from edgeembed.engine.llama.library import send_log_to

CONTROL = re.compile(r"(<\|[a-z_]+\|>)")
"""A control token in a template, kept by `re.split`."""


class Scores:
    """A loaded reranker."""

    def __init__(self, file: Path, tokens: int) -> None:
        send_log_to(lambda _line: None, verbose=False)  # llama-cpp-python's logger fails on split characters
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
        assert self._model, file
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.embeddings = True
        self._context = lib.llama_init_from_model(self._model, params)
        self._vocab = lib.llama_model_get_vocab(self._model)

    def tokenize(self, template: str, **values: str) -> list[int]:
        """Return the ids of a filled template; control tokens in the values are plain text.

        What lies between two control tokens is tokenised as one text: byte-level BPE joins a space in the template with
        the word that comes after it.
        """
        ids: list[int] = []
        for part in CONTROL.split(template):
            is_control = CONTROL.fullmatch(part) is not None
            text = (part if is_control else part.format(**values)).encode()
            buffer = (lib.llama_token * (len(text) + 8))()
            count = lib.llama_tokenize(self._vocab, text, len(text), buffer, len(buffer), False, is_control)
            assert count >= 0
            ids.extend(buffer[:count])
        return ids

    def rank(self, ids: Sequence[int]) -> list[float]:
        """Return the pooled outputs of one prompt, one per label."""
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        tokens = (lib.llama_token * len(ids))(*ids)
        batch = lib.llama_batch_get_one(tokens, len(ids))
        assert lib.llama_decode(self._context, batch) == 0
        count = lib.llama_model_n_cls_out(self._model)
        return [float(value) for value in np.ctypeslib.as_array(lib.llama_get_embeddings_seq(self._context, 0), (count,))]

    def close(self) -> None:
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


@contextmanager
def open_scores(file: Path, tokens: int = 1024) -> Iterator[Scores]:
    """Load a reranker for prompts of at most `tokens` tokens."""
    scores = Scores(file, tokens)
    try:
        yield scores
    finally:
        scores.close()
