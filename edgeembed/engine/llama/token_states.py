"""Forward passes whose result is the hidden state of each token, not a pooled row."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeembed.engine.context_plan import TILE, ContextShape
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.expansion_mask import ExpansionMask
from edgeembed.engine.llama.ggml import LAST_HIDDEN_STATES, EvalCallback
from edgeembed.engine.llama.graph_change import GraphChange
from edgeembed.engine.llama.library import ComputeError
from edgeembed.engine.llama.rows import tensor_name
from edgeembed.engine.reading import Reading, Tokens


class StatesReader:
    """Reads the hidden states of all tokens of a pass."""

    last_only = False

    def __init__(self, width: int, *, before_lm_head: bool) -> None:
        """width: of a hidden state. before_lm_head: the graph ends with them, as for `LastTokenReader`."""
        self.width = width
        self._before_lm_head = before_lm_head
        self._callback = EvalCallback(self._evaluate)  # llama.cpp keeps only the address

    def configure(self, params: Any) -> None:
        params.embeddings = True
        params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE
        if self._before_lm_head:
            params.cb_eval = self._callback

    def expect(self, outputs: int) -> None:
        pass

    def read(self, context: Any, sequences: Sequence[int] | range, rows: Float32Matrix) -> None:
        raise NotImplementedError("a pass for hidden states has no pooled rows")

    def states(self, context: Any, tokens: int) -> Float32Matrix:
        """Return a copy of the hidden states of a finished pass, shape (tokens, width). Raises ComputeError."""
        pointer = lib.llama_get_embeddings(context)
        if not pointer:
            raise ComputeError("llama.cpp has no hidden states of this batch")
        found = np.empty((tokens, self.width), dtype=np.float32)
        ctypes.memmove(found.ctypes.data, pointer, found.nbytes)
        return found

    def _evaluate(self, tensor: int, asking: bool, _user_data: object) -> bool:
        return asking and bool(tensor_name(tensor) == LAST_HIDDEN_STATES)  # asked for, the graph ends behind it


class StatesContext(Context):
    """A context that computes hidden states. One thread at a time."""

    def __init__(
        self, model: Any, shape: ContextShape, reader: StatesReader, *, on_card: bool, change: GraphChange | None
    ) -> None:
        """Create the context. Raises ModelLoadError when memory is short."""
        super().__init__(model, shape, reader, dimensions=reader.width, on_card=on_card, change=change)
        self._states_reader = reader
        self._mask = change if isinstance(change, ExpansionMask) else None

    def compute_states(self, texts: Sequence[Reading]) -> list[Float32Matrix]:
        """Return the hidden states of each text, shape (tokens, width), in as few passes as the batch buffer allows.

        Each text has 1 to `shape.longest_text` tokens. Raises ComputeError.
        """
        found: list[Float32Matrix] = []
        starts = [0] * len(texts)
        while (first := len(found)) < len(texts):
            together = texts[first : self._end_of_pass(texts, starts, first)]
            tokens = [text.tokens for text in together]
            if self._mask is not None:
                self._mask.hide([text.unattended for text in together])
            if len(tokens[0]) > self.shape.batch:
                found.append(self._in_pieces(tokens[0]))
            else:
                states = self._states(tokens, range(len(tokens)), starts[: len(tokens)])
                self._forget(range(len(tokens)))
                found += np.split(states, np.cumsum([len(text) for text in tokens])[:-1])
        return found

    def _in_pieces(self, text: Tokens) -> Float32Matrix:
        size = self.shape.batch
        if not self.shape.pieces:
            raise ComputeError(f"a text of {len(text)} tokens is longer than a batch of {size}")
        try:
            return np.concatenate([self._states([text[at : at + size]], [0], [at]) for at in range(0, len(text), size)])
        finally:
            self._forget([0])

    def _states(self, texts: Sequence[Tokens], sequences: Sequence[int] | range, starts: Sequence[int]) -> Float32Matrix:
        self._pass(texts, sequences, starts=starts if self._memory else None)
        return self._states_reader.states(self._context, sum(map(len, texts)))


def states_shape(wide: ContextShape, *, decoder: bool) -> ContextShape:
    """Return the shape of a context for hidden states. wide: the model's wide one.

    A decoder's passes are short: llama.cpp keeps room for the logits of each token, computed or not.
    """
    shape = replace(wide, prefix_cells=0, pad_factor=0.0)
    return replace(shape, batch=min(shape.batch, TILE), texts=min(shape.texts, TILE)) if decoder else shape
