"""Vectors of a GGUF file, computed by the engine in this process, as the daemon does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgeembed.engine.canary import cosine
from edgeembed.engine.interface import Float32Row
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.token_spans import Spans
from edgeembed.engine.worker_options import WorkerOptions

__all__ = ["cosine", "open_llama"]


class Vectors:
    """A loaded GGUF file."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, including special tokens."""
        return [int(number) for number in self._model.tokenize(text)]

    def spans(self, text: str) -> Spans:
        """Return the part of the text that each of its tokens stands for."""
        return self._model.spans(text, self._model.tokenize(text))

    def embed_ids(self, ids: Sequence[int]) -> Float32Row:
        """Return the pooled, unnormalised row, shape (dimensions,), of one sequence of ids."""
        return self._model.embed([np.asarray(ids, dtype=np.int32)])[0]

    def embed(self, text: str) -> Float32Row:
        """Return the row of a text."""
        return self.embed_ids(self.tokenize(text))


@contextmanager
def open_llama(file: Path, tokens: int = 512) -> Iterator[Vectors]:
    """Load a GGUF file for texts of at most `tokens` tokens."""
    options = WorkerOptions(
        path=str(file), threads=2, context_tokens=tokens, batch_tokens=128, mode="cpu", extra_buffers=True
    )
    model = LlamaModel(options)
    try:
        yield Vectors(model)
    finally:
        model.close()
