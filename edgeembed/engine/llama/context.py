"""A llama.cpp context: forward passes over batches of tokenised texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeembed.engine.context_plan import ContextShape, padding
from edgeembed.engine.llama.batch import BatchBuffers
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ComputeError, ModelLoadError, logged_cause, said
from edgeembed.engine.llama.prefixes import KeptPrefixes
from edgeembed.engine.llama.rows import Matrix, Rows
from edgeembed.engine.llama.thread_choice import ThreadChoice
from edgeembed.engine.reading import Reading, Tokens

_NO_MEMORY = -2
"""What llama_decode and llama_encode return when ggml cannot allocate memory (llama-context.cpp)."""


class Context:
    """One context of a loaded model. One thread at a time."""

    def __init__(self, model: Any, shape: ContextShape, rows: Rows, *, dimensions: int, on_card: bool = False) -> None:
        """Make it. rows: a way that no other context uses. on_card: whether layers of the model are on a graphics card.

        Raises ModelLoadError when there is no memory for it.
        """
        self.shape = shape
        self._on_card = on_card
        self._rows = rows
        self._dimensions = dimensions
        self._context = self._make(model)
        self._memory = lib.llama_get_memory(self._context)
        # A model without a KV cache is an encoder; llama_decode would do the same, with a warning in the log for each batch.
        self._forward = lib.llama_decode if self._memory else lib.llama_encode
        self._buffers = BatchBuffers(shape.batch)
        self._threads = ThreadChoice(shape.threads)
        self._prefixes: KeptPrefixes | None = None
        if shape.prefix_cells and rows.last_only and self._memory:
            ids = range(shape.texts + 1, shape.texts + 1 + shape.prefixes)
            self._prefixes = KeptPrefixes(self._memory, shape.prefix_cells, ids, self._fill_cells)

    def compute(
        self, texts: Sequence[Reading], between: Callable[[], object] | None = None, *, isolated: bool = False
    ) -> Matrix:
        """Give one pooled row for each text, in as few forward passes as the batch buffer allows.

        Each text has 1 to `shape.longest_text` tokens. One that is longer than the batch buffer is taken in pieces, where
        the shape says so; between two of them `between` is called, which may compute texts here that need no pieces.
        isolated: nothing but the texts decides how they are computed: not what was measured here, nor what came before them.
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
                self._compute_together(texts[first:end], starts[first:end], rows[first:end], fill_up=not isolated)
            first = end
        return rows

    @property
    def kept_prefixes(self) -> int:
        """How many prefixes have cells of their own now."""
        return self._prefixes.count if self._prefixes is not None else 0

    def adopt(self, shape: ContextShape) -> None:
        """Go on with another rule for filling up; all else of the shape is as it was."""
        self.shape = shape

    def time_pass(self, tokens: int) -> float:
        """Give the seconds of a forward pass over one text of so many tokens, not filled up. Raises ComputeError."""
        start = time.perf_counter()
        try:
            self._pass([np.zeros(tokens, dtype=np.int32)], [0])  # which tokens they are makes no difference
        finally:
            self._forget([0])
        return time.perf_counter() - start

    def close(self) -> None:
        """Free it."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None

    # --- forward passes -----------------------------------------------------------------------------------------------

    def _prepare(self, texts: Sequence[Reading], *, at_once: bool = False) -> list[int]:
        """Give the first position of each text that has to be computed. at_once: see `KeptPrefixes.prepare`."""
        return self._prefixes.prepare(texts, at_once=at_once) if self._prefixes is not None else [0] * len(texts)

    def _end_of_pass(self, texts: Sequence[Reading], starts: Sequence[int], first: int) -> int:
        """Give the end of the run of texts from `first` on that fits into a pass; of one text when it is longer."""
        tokens = 0
        for number in range(first, min(len(texts), first + self.shape.texts)):
            tokens += len(texts[number].tokens) - starts[number]
            if number > first and tokens > self.shape.batch:
                return number
        return min(len(texts), first + self.shape.texts)

    def _compute_together(self, texts: Sequence[Reading], starts: Sequence[int], rows: Matrix, *, fill_up: bool) -> None:
        sequences = range(len(texts))
        try:
            for sequence, text, start in zip(sequences, texts, starts, strict=True):
                if start and self._prefixes is not None:
                    self._prefixes.attach(text, sequence)
            tokens = [text.tokens[start:] if start else text.tokens for text, start in zip(texts, starts, strict=True)]
            if self._memory:
                self._pass(tokens, sequences, starts=starts)
            elif fill_up and (filler := padding([len(text) for text in tokens], self.shape)):
                # A throw-away text: its row is never read, and no other text sees it.
                self._pass([*tokens, np.zeros(filler, dtype=np.int32)], range(len(texts) + 1))
            else:
                self._pass(tokens, sequences)
            self._rows.read(self._context, sequences, rows)
        finally:
            self._forget(sequences)

    def _compute_in_pieces(self, text: Reading, start: int, row: Matrix, between: Callable[[], object] | None) -> None:
        if not self.shape.pieces:
            raise ComputeError(f"a text of {len(text.tokens)} tokens is longer than a batch of {self.shape.batch}")
        sequence = self.shape.texts  # no other text has it, so that others can be computed between the pieces
        try:
            if start and self._prefixes is not None:
                self._prefixes.attach(text, sequence)
            # The KV cells carry the earlier pieces; the row of the last piece is that of the text's last token.
            size, total = self.shape.batch, len(text.tokens)
            for at in range(start, total, size):
                last = at + size >= total
                self._pass([text.tokens[at : at + size]], [sequence], starts=[at], outputs=last)
                if between and not last:
                    between()
            self._rows.read(self._context, [sequence], row)
        finally:
            self._forget([sequence])

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
        marked = [outputs] * len(texts) if self._rows.last_only else None
        self._rows.expect(len(texts) if outputs else 0)
        batch = self._buffers.fill(texts, sequences=sequences, starts=starts, outputs=marked)
        if self.shape.threads == 1:
            code = self._forward(self._context, batch)
        else:
            threads = self._threads.next()
            lib.llama_set_n_threads(self._context, threads, threads)
            start = time.perf_counter()
            code = self._forward(self._context, batch)
            self._threads.record(batch.n_tokens, time.perf_counter() - start)
        if code != 0:
            raise ComputeError(
                f"llama.cpp cannot compute this batch (code {code})", "out_of_memory" if code == _NO_MEMORY else "other"
            )

    def _forget(self, sequences: Sequence[int] | range) -> None:
        """Free the cells of texts whose rows are out; those of kept prefixes stay."""
        if self._memory:
            for sequence in sequences:
                lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    # --- making it ----------------------------------------------------------------------------------------------------

    def _make(self, model: Any) -> Any:
        shape = self.shape
        params = lib.llama_context_default_params()
        params.n_ctx = shape.cells
        params.n_batch = shape.batch
        params.n_ubatch = shape.batch
        params.n_seq_max = shape.sequences
        params.n_threads = shape.threads
        params.n_threads_batch = shape.threads
        # CUDA has no such kernel for heads of 32 numbers, as MiniLM's are: asked for one, llama.cpp would take each layer's
        # attention back to the processor. Left to itself it takes the plain kernels there.
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO if self._on_card else lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True  # all sequences share one pool of n_ctx cells, instead of n_ctx / n_seq_max each
        params.no_perf = True
        self._rows.configure(params)
        context = lib.llama_init_from_model(model, params)
        if not context:
            raise ModelLoadError(
                f"llama.cpp cannot make a context of {shape.cells} tokens (not enough memory?){said()}",
                fatal=False,
                cause=logged_cause(otherwise="out_of_memory"),
            )
        return context
