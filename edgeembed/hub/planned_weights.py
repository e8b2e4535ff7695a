"""Sizes of a model of the catalogue that is not installed, as `read_weights` reads them from a file."""

from __future__ import annotations

from edgeembed.engine.context_plan import ModelFacts
from edgeembed.engine.gpu.plan import ModelWeights
from edgeembed.hub.catalogue import CatalogueEntry
from edgeembed.hub.file_sizes import CAUSAL, layer_sizes, stored_feed_forward

_KV_BYTES = 2  # float16
_WITHOUT_GATE = frozenset({"bert", "jina-bert-v3", "mpnet", "nomic-bert-moe"})


def planned_weights(entry: CatalogueEntry, kind: str) -> tuple[ModelWeights, ModelFacts] | None:
    """Return the sizes to a few per cent; None without a shape, or for an unknown type."""
    shape, sizes = entry.shape, layer_sizes(entry, kind)
    if shape is None or sizes is None:
        return None
    head = shape.head_length or shape.width // shape.heads
    causal = entry.architecture in CAUSAL
    pieces = causal and (entry.pooling == "last" or entry.task == "rerank")
    gated = 1 if entry.architecture in _WITHOUT_GATE else 2
    weights = ModelWeights(
        layers=sizes.layers,
        # Decoders have one matrix for input and output, of which the output layer gets a copy.
        output=sizes.outside + (0 if "bert" in entry.architecture else sizes.embeddings),
        largest_matrix=sizes.largest_matrix,
        feed_forward=stored_feed_forward(entry.architecture, shape.feed_forward) * gated,
        heads_width=head * shape.heads,
        heads=shape.heads,
    )
    cells = shape.layers * (shape.kv_heads or shape.heads) * 2 * head * _KV_BYTES
    facts = ModelFacts(
        pieces=pieces,
        trained_tokens=entry.context_tokens,
        width=shape.width,
        vocabulary=shape.vocabulary,
        cell_bytes=cells if pieces else 0,
    )
    return weights, facts
