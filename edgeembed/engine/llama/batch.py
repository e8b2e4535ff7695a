"""The arrays of a `llama_batch`, filled through numpy: a few calls per batch, none per token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.reading import Tokens


class BatchBuffers:
    """Room for a batch of `capacity` tokens, each of which belongs to one sequence."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, dtype=np.int32)
        self._position = np.zeros(capacity, dtype=np.int32)
        self._sequence = np.zeros(capacity, dtype=np.int32)
        self._sequence_count = np.ones(capacity, dtype=np.int32)
        self._output = np.ones(capacity, dtype=np.int8)
        # Each token has a pointer to its list of sequence ids, here one id; the addresses never change.
        self._sequence_pointer = (self._sequence.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self._ramp = np.arange(capacity, dtype=np.int32)
        self._batch = lib.llama_batch()
        self._batch.token = self._token.ctypes.data_as(ctypes.POINTER(lib.llama_token))
        self._batch.pos = self._position.ctypes.data_as(ctypes.POINTER(lib.llama_pos))
        self._batch.n_seq_id = self._sequence_count.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._batch.seq_id = self._sequence_pointer.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(lib.llama_seq_id)))
        self._batch.logits = self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(
        self,
        texts: Sequence[Tokens],
        *,
        sequences: Sequence[int] | range,
        starts: Sequence[int] | None = None,
        outputs: Sequence[bool] | None = None,
    ) -> Any:
        """Return a batch of the texts, valid until the next call.

        sequences: the id of each text's sequence. starts: the position of each text's first token; 0 by default.
        outputs: whether each text's last token is an output, its only one; by default every token is an output.
        """
        if len(texts) == 1:
            return self._fill_one(
                texts[0], sequences[0], starts[0] if starts else 0, None if outputs is None else outputs[0]
            )
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        ends = np.cumsum(lengths)
        total = int(ends[-1])
        np.concatenate(texts, out=self._token[:total])
        first = ends - lengths if starts is None else ends - lengths - np.asarray(starts)
        np.subtract(self._ramp[:total], np.repeat(first, lengths), out=self._position[:total], casting="unsafe")
        self._sequence[:total] = np.repeat(np.asarray(sequences, dtype=np.int32), lengths)
        if outputs is None:
            self._output[:total] = 1
        else:
            self._output[:total] = 0
            self._output[ends - 1] = outputs
        self._batch.n_tokens = total
        return self._batch

    def _fill_one(self, text: Tokens, sequence: int, start: int, output: bool | None) -> Any:
        """Fill the batch of a query, which is most of what a daemon computes, with as little code as possible: between two
        queries the weights have taken the place of all code in the processor's caches.
        """
        total = len(text)
        self._token[:total] = text
        self._position[:total] = self._ramp[:total]
        if start:
            self._position[:total] += start
        self._sequence[:total] = sequence
        self._output[:total] = output is None
        if output:
            self._output[total - 1] = 1
        self._batch.n_tokens = total
        return self._batch
