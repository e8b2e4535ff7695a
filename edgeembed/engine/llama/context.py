"""A llama.cpp context: forward passes over batches of tokenised texts."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeembed.common.heap import drop_pages
from edgeembed.common.trace import traced
from edgeembed.engine.context_plan import ContextShape, padding
from edgeembed.engine.interface import Float32Matrix
from edgeembed.engine.llama.batch import BatchBuffers
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.graph_change import GraphChange
from edgeembed.engine.llama.kernel_hook import installed_kernels, measured
from edgeembed.engine.llama.library import ComputeError, ModelLoadError, logged_cause, logged_errors
from edgeembed.engine.llama.prefixes import KeptPrefixes
from edgeembed.engine.llama.rows import RowReader
from edgeembed.engine.llama.thread_choice import ThreadChoice
from edgeembed.engine.reading import Reading, Tokens

LONG_TEXT = 1024
"""From this number of tokens on, memory that a text needed is returned to the system behind it. The next such text takes at
most a hundredth longer; what it needs grows with its length, and at 8,192 tokens an encoder's takes 500 MB."""

_NO_MEMORY = -2
"""What llama_decode and llama_encode return when ggml cannot allocate memory (llama-context.cpp)."""


class Context:
    """One context of a loaded model. One thread at a time."""

    def __init__(
        self,
        model: Any,
        shape: ContextShape,
        reader: RowReader,
        *,
        dimensions: int,
        on_card: bool = False,
        change: GraphChange | None = None,
    ) -> None:
        """Create the context. reader, change: not shared with other contexts. on_card: layers of the model are on a card.

        Raises ModelLoadError when memory is short.
        """
        self.shape = shape
        self._on_card = on_card
        self._reader = reader
        self._change = change
        self._dimensions = dimensions
        self._context = self._make(model)
        self._memory = lib.llama_get_memory(self._context)
        # A model without a KV cache is an encoder; llama_decode would compute it too, but log a warning for each batch.
        forward = lib.llama_decode if self._memory else lib.llama_encode
        self._forward = traced(before="prepare the batch", within="compute")(measured(forward))
        self._buffers = BatchBuffers(shape.batch)
        self._threads = ThreadChoice(shape.threads)
        self._kernels = installed_kernels()
        self._threads_set = shape.threads
        self._set_threads = self._kernels.threads_setter()
        self._pass_tokens = 0
        # Encoders have no logits. On a card, the buffer may be pinned.
        self._unused_logits = None if self._memory or on_card else _UnusedLogits(model, self._context, shape.sequences)
        self._prefixes: KeptPrefixes | None = None
        if shape.prefix_cells and reader.last_only and self._memory:
            ids = range(shape.texts + 1, shape.texts + 1 + shape.prefixes)
            self._prefixes = KeptPrefixes(self._memory, shape.prefix_cells, ids, self._fill_cells)

    def compute(
        self, texts: Sequence[Reading], between: Callable[[], object] | None = None, *, isolated: bool = False
    ) -> Float32Matrix:
        """Return one pooled row for each text, computed in as few forward passes as the batch buffer allows.

        Each text has 1 to `shape.longest_text` tokens. A text longer than the batch buffer is computed in pieces, if the
        shape allows it; `between` is called between two of them, and may compute texts here that need no pieces.
        isolated: compute in a way that depends only on these texts, not on measurements or on earlier texts.
        Raises ComputeError.
        """
        rows = np.empty((len(texts), self._dimensions), dtype=np.float32)
        starts = self._prepare(texts, at_once=isolated)
        first = 0
        while first < len(texts):
            end = self._end_of_pass(texts, starts, first)
            if len(texts[first].tokens) - starts[first] > self.shape.batch:
                self._compute_in_pieces(texts[first], starts[first], rows[first:end], between)
                starts[end:] = self._prepare(texts[end:], at_once=isolated)  # others may have taken the cells meanwhile
            else:
                self._compute_together(texts[first:end], starts[first:end], rows[first:end], pad=not isolated)
            first = end
        return rows

    @property
    def kept_prefixes(self) -> int:
        """Number of prefixes whose cells are kept now."""
        return self._prefixes.count if self._prefixes is not None else 0

    def adopt(self, shape: ContextShape) -> None:
        """Use another padding rule from now on; the rest of the shape has to be the same."""
        self.shape = shape

    def time_pass(self, tokens: int) -> float:
        """Return the seconds of a forward pass over one text of `tokens` tokens, without padding. Raises ComputeError."""
        start = time.perf_counter()
        try:
            self._pass([np.zeros(tokens, dtype=np.int32)], [0])  # any tokens take the same time
        finally:
            self._forget([0])
        return time.perf_counter() - start

    def close(self) -> None:
        """Free the context."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None

    # --- forward passes -----------------------------------------------------------------------------------------------

    def _prepare(self, texts: Sequence[Reading], *, at_once: bool = False) -> list[int]:
        """Return the first position of each text that has to be computed. at_once: see `KeptPrefixes.prepare`."""
        return self._prefixes.prepare(texts, at_once=at_once) if self._prefixes is not None else [0] * len(texts)

    def _end_of_pass(self, texts: Sequence[Reading], starts: Sequence[int], first: int) -> int:
        """Return the end of the texts from `first` on that fit into one pass; always at least one text."""
        tokens = 0
        for number in range(first, min(len(texts), first + self.shape.texts)):
            tokens += len(texts[number].tokens) - starts[number]
            if number > first and tokens > self.shape.batch:
                return number
        return min(len(texts), first + self.shape.texts)

    def _compute_together(self, texts: Sequence[Reading], starts: Sequence[int], rows: Float32Matrix, *, pad: bool) -> None:
        sequences = range(len(texts))
        try:
            for sequence, text, start in zip(sequences, texts, starts, strict=True):
                if start and self._prefixes is not None:
                    self._prefixes.attach(text, sequence)
            tokens = [text.tokens[start:] if start else text.tokens for text, start in zip(texts, starts, strict=True)]
            if self._memory:
                self._pass(tokens, sequences, starts=starts)
            elif pad and (filler := padding([len(text) for text in tokens], self.shape)):
                # Padding is a text of its own: its row is never read, and no other text attends to it.
                self._pass([*tokens, np.zeros(filler, dtype=np.int32)], range(len(texts) + 1))
            else:
                self._pass(tokens, sequences)
            self._reader.read(self._context, sequences, rows)
        finally:
            self._forget(sequences)

    def _compute_in_pieces(
        self, text: Reading, start: int, row: Float32Matrix, between: Callable[[], object] | None
    ) -> None:
        size, total = self.shape.batch, len(text.tokens)
        if not self.shape.pieces:
            raise ComputeError(f"a text of {total} tokens is longer than a batch of {size}")
        sequence = self.shape.texts  # used by no other text, so that others can be computed between the pieces
        try:
            if start and self._prefixes is not None:
                self._prefixes.attach(text, sequence)
            # The KV cells keep the earlier pieces; the last piece ends with the token whose row is wanted.
            for at in range(start, total, size):
                last = at + size >= total
                self._pass([text.tokens[at : at + size]], [sequence], starts=[at], outputs=last)
                if between and not last:
                    between()
            self._reader.read(self._context, [sequence], row)
        finally:
            self._forget([sequence])
            if total >= LONG_TEXT and self._kernels.ours:
                self._drop_cells()

    def _fill_cells(self, tokens: Tokens, sequence: int) -> None:
        for at in range(0, len(tokens), self.shape.batch):
            self._pass([tokens[at : at + self.shape.batch]], [sequence], starts=[at], outputs=False)

    def _pass(
        self,
        texts: Sequence[Tokens],
        sequences: Sequence[int] | range,
        *,
        starts: Sequence[int] | None = None,
        outputs: bool = True,
    ) -> None:
        marked = [outputs] * len(texts) if self._reader.last_only else None
        self._reader.expect(len(texts) if outputs else 0)
        batch = self._buffers.fill(texts, sequences=sequences, starts=starts, outputs=marked)
        if self._change is not None:
            self._change.expect([len(text) for text in texts])
        self._pass_tokens = batch.n_tokens
        if self.shape.threads == 1:
            code = self._forward(self._context, batch)
        else:
            threads = self._threads.next()
            if threads != self._threads_set:
                lib.llama_set_n_threads(self._context, threads, threads)
                self._threads_set = threads
            self._set_threads(threads)
            start = time.perf_counter()
            code = self._forward(self._context, batch)
            self._threads.record(batch.n_tokens, time.perf_counter() - start)
        if code != 0:
            raise ComputeError(
                f"llama.cpp cannot compute this batch (code {code})", "out_of_memory" if code == _NO_MEMORY else "other"
            )
        if self._unused_logits is not None:
            self._unused_logits.drop(batch.n_tokens)
        if self._change is not None:
            self._change.check()

    def _forget(self, sequences: Sequence[int] | range) -> None:
        """Free the cells of texts whose rows have been read; those of kept prefixes stay."""
        if self._pass_tokens >= LONG_TEXT:
            self._kernels.drop_results()
            self._pass_tokens = 0
        if self._memory:
            for sequence in sequences:
                lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _drop_cells(self) -> None:
        """Free all cells, and return their memory to the system. Prefixes are computed again when they are needed."""
        if self._prefixes is not None:
            self._prefixes.forget()
        lib.llama_memory_clear(self._memory, True)  # see kernels/pages.h

    # --- creation -----------------------------------------------------------------------------------------------------

    def _make(self, model: Any) -> Any:
        shape = self.shape
        params = lib.llama_context_default_params()
        params.n_ctx = shape.cells
        params.n_batch = shape.batch
        params.n_ubatch = shape.batch
        params.n_seq_max = shape.sequences
        params.n_threads = shape.threads
        params.n_threads_batch = shape.threads
        # CUDA has no flash attention for heads of 32 numbers, such as MiniLM's: with ENABLED, llama.cpp would move the
        # attention of each layer to the processor. With AUTO it uses the plain kernels of the card.
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO if self._on_card else lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # all sequences share one pool of n_ctx cells, instead of n_ctx / n_seq_max each
        params.no_perf = True
        self._reader.configure(params)
        if self._change is not None:
            self._change.configure(params)
        context = lib.llama_init_from_model(model, params)
        if not context:
            raise ModelLoadError(
                f"llama.cpp cannot create a context of {shape.cells} tokens (not enough memory?){logged_errors()}",
                fatal=False,
                cause=logged_cause(otherwise="out_of_memory"),
            )
        return context


class _UnusedLogits:
    """The memory for an encoder's logits, which are never computed: llama.cpp keeps a row of the vocabulary's size for each
    token of the largest batch so far, 63 MB for MiniLM's 512, and fills them with zeros.
    """

    def __init__(self, model: Any, context: Any, sequences: int) -> None:
        """sequences: of the context, which begins with a row for each."""
        self._context = context
        self._row_bytes = 4 * int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)))
        self._most = 0
        self.drop(sequences)

    def drop(self, tokens: int) -> None:
        """Return it to the system after a pass of this many tokens, if there is more of it than before."""
        if tokens > self._most:
            self._most = tokens
            if logits := ctypes.cast(lib.llama_get_logits(self._context), ctypes.c_void_p).value:
                drop_pages(logits, tokens * self._row_bytes)
