"""Context plan: number and sizes of a model's contexts, and when a batch is padded. Arithmetic only, no llama.cpp.

One wide context with all threads computes queries and the longest texts. Bulk loads get contexts of their own, the bulk
lanes, with few threads each: a forward pass of one thread never waits at a barrier for another one, and while one lane packs
its next batch the others compute. Threads of bulk lanes have a lower priority, so that queries do not wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgeembed.engine.worker_options import WorkerOptions

TILE = 64
"""Tokens in a batch from which llama.cpp uses its tiled flash-attention kernel for processors (GGML_FA_TILE_Q)."""
TILE_TOKENS = 19
"""Cost of a tile beyond the matrix products of its tokens, in matrix products of a token; measured: 17 to 20."""
PADDING_PER_WIDTH = 30 / 384
"""Squared tokens of plain attention that cost as much as one token's matrix products, per dimension of the model; measured
for 384 dimensions with AVX-512 without AMX: 37 at Q8_0 and 22 at F32."""

MOST_BULK_LANES = 128
MOST_TEXTS = 64
"""Texts in a forward pass. llama.cpp allows 256, but more than fit the token budget are of no use."""
MOST_TEXTS_OF_DECODER = 16
"""Each needs two rows of logits, computed or not: 1.2 MB with Qwen3's vocabulary."""
MOST_PREFIXES = 8

MOST_REDUCTION = 3
SHORTEST_CONTEXT = 128
"""No model is reduced to shorter texts."""

BULK_TOKENS = 512
"""The longest text of a bulk lane, if memory allows; longer ones go to the wide context."""
BULK_BYTES = 512 * 2**20
"""Rough limit of the memory of all bulk lanes of a model; most of it is allocated only for long texts."""


@dataclass(frozen=True)
class ModelFacts:
    """Properties of a model that decide about sizes. pieces: texts can be computed in pieces (causal, pooled at the end)."""

    pieces: bool
    trained_tokens: int
    width: int
    """Numbers in a hidden state."""
    vocabulary: int
    cell_bytes: int
    """Memory of one token in the KV cache; 0 for a model without one."""
    own_attention: bool = False
    """Attention is computed by our kernels, which need no padding."""


@dataclass(frozen=True)
class ContextShape:
    """Sizes of a context, in tokens unless noted."""

    cells: int
    """Tokens that it can hold (llama.cpp's n_ctx)."""
    batch: int
    longest_text: int
    texts: int
    threads: int
    pieces: bool
    prefix_cells: int
    """Limit of all kept prefixes together."""
    pad_factor: float
    """See `padding`; 0 for never."""
    trained_tokens: int

    @property
    def prefixes(self) -> int:
        return MOST_PREFIXES if self.prefix_cells else 0

    @property
    def sequences(self) -> int:
        """One sequence per text; for a causal model also one for a long text in pieces, and one per prefix."""
        return self.texts + 1 + self.prefixes if self.pieces else self.texts


@dataclass(frozen=True)
class ContextPlan:
    """The contexts of a model."""

    wide: ContextShape
    bulk: ContextShape
    bulk_lanes: int


def reduced(options: WorkerOptions, trained_tokens: int) -> WorkerOptions:
    """Return the options of a worker that takes less memory, by `options.reduction`.

    1: no bulk lanes, the smallest batch. 2: also half the longest text; longer ones are refused then. 3: a quarter of it.
    """
    step = min(options.reduction, MOST_REDUCTION)
    if not step:
        return options
    longest = min(trained_tokens, options.context_tokens)
    return msgspec.structs.replace(
        options,
        bulk_lanes=0,
        batch_tokens=min(options.batch_tokens, TILE),
        context_tokens=max(longest >> (step - 1), min(longest, SHORTEST_CONTEXT)),
        prefix_tokens=0,
    )


def attainable_tokens(plan: ContextPlan, options: WorkerOptions) -> int:
    """Return the longest text that a higher limit in the options would allow; 0 if that would change nothing."""
    trained, longest = plan.wide.trained_tokens, plan.wide.longest_text
    return trained if trained > longest and not options.reduction else 0


def make_plan(facts: ModelFacts, options: WorkerOptions, *, last_only: bool) -> ContextPlan:
    """Return the plan. last_only: whether rows come from `LastTokenReader`, which can share prefixes."""
    longest = min(facts.trained_tokens, options.context_tokens)
    batch = max(options.batch_tokens, TILE)
    bulk_text = min(longest, _bulk_tokens(facts, batch, options.threads))
    prefixes = options.prefix_tokens if last_only else 0

    def shape(text: int, threads: int, beside: int = 0) -> ContextShape:
        if facts.pieces:
            cells = max(text, batch) + beside + prefixes
            texts, room = min(MOST_TEXTS_OF_DECODER, batch), batch
        else:
            # llama.cpp aborts the process when a batch of an encoder is larger than the ubatch, and when the ubatch is no
            # multiple of the sequences.
            cells = room = -(-max(batch, text) // MOST_TEXTS) * MOST_TEXTS
            texts = MOST_TEXTS
        return ContextShape(
            cells=cells,
            batch=room,
            longest_text=text,
            texts=texts,
            threads=threads,
            pieces=facts.pieces,
            prefix_cells=prefixes,
            pad_factor=0.0 if facts.pieces else _pad_factor(facts, options),
            trained_tokens=facts.trained_tokens,
        )

    lanes = options.bulk_lanes
    if lanes is None:
        most = min(MOST_BULK_LANES, max(1, BULK_BYTES // _bulk_bytes(facts, shape(bulk_text, 1), last_only)))
        lanes = options.threads // -(-options.threads // most)  # each with the same number of threads
    return ContextPlan(
        # Queries are computed between two pieces of a long text, so there has to be room for both.
        wide=shape(longest, options.threads, beside=batch if longest > batch else 0),
        bulk=shape(bulk_text, max(1, options.threads // max(1, lanes))),
        bulk_lanes=min(lanes, MOST_BULK_LANES),
    )


def _bulk_tokens(facts: ModelFacts, batch: int, threads: int) -> int:
    """Return the longest text of a bulk lane: each token of an encoder's batch takes an unused row of logits."""
    if facts.pieces:
        return BULK_TOKENS
    return max(batch, min(BULK_TOKENS, BULK_BYTES // threads // (4 * facts.vocabulary) // MOST_TEXTS * MOST_TEXTS))


def _bulk_bytes(facts: ModelFacts, shape: ContextShape, last_only: bool) -> int:
    """Estimate the memory of a bulk lane: KV cells, and logits in the output buffer and, for a decoder, in the graph."""
    outputs = shape.sequences if last_only else shape.batch
    if shape.pieces:
        outputs *= 2
    return max(1, shape.cells * facts.cell_bytes + 4 * facts.vocabulary * outputs)


# --- padding ----------------------------------------------------------------------------------------------------------


def _pad_factor(facts: ModelFacts, options: WorkerOptions) -> float:
    threshold = options.pad_from_tokens
    if threshold is None:
        return 0.0 if facts.own_attention else PADDING_PER_WIDTH * facts.width
    if not 0 < threshold < TILE:
        return 0.0
    return threshold**2 / (TILE - threshold + TILE_TOKENS)


def padding(lengths: Sequence[int], shape: ContextShape) -> int:
    """Return how many padding tokens make a batch of texts of these lengths faster; 0 when none do.

    Below `TILE` tokens attention uses the plain kernel, whose work grows with the sum of squared lengths. A tile costs the
    same whatever it holds, and padding tokens take part in all matrix products:
    pad when sum(n^2) >= factor * (TILE - sum(n) + TILE_TOKENS).
    """
    total = sum(lengths)
    missing = TILE - total
    if not shape.pad_factor or not 0 < missing < shape.trained_tokens or len(lengths) >= shape.texts:
        return 0
    pays = sum(length * length for length in lengths) >= shape.pad_factor * (missing + TILE_TOKENS)
    return missing if pays else 0
