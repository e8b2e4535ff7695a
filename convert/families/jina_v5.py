"""jina-embeddings-v5-text: an encoder or a decoder, and an adapter for each task.

"jina-embeddings-v5-text: Task-Targeted Embedding Distillation", arXiv 2602.15547. nano is EuroBERT, small is Qwen3; both
take the state of the last token. The makers' own code (modeling_jina_embeddings_v5, and custom_st for sentence-transformers)
adds the adapter of the task from adapters/. Here it is merged before (`adapters`), so one task makes one file.
"""

from __future__ import annotations

import re
from dataclasses import replace

from edgeembed.errors import ConversionError
from edgeembed_convert.adapters import FLAG
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.eurobert import plan_eurobert
from edgeembed_convert.families.qwen3 import plan_embedder

_CODE = "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model"
_MODULE = "custom_st.Transformer"
# The table in the model card: "Matryoshka Dimensions | 32, 64, 128, 256, 512, 768".
_MATRYOSHKA = re.compile(r"Matryoshka Dimensions\W*(\d+(?:, *\d+)*)")


class JinaV5:
    """The family of jina-embeddings-v5-text."""

    architectures = ("JinaEmbeddingsV5Model",)
    model_types = ("jina_embeddings_v5",)
    followed_code = (
        _CODE,
        f"jinaai/jina-embeddings-v5-text-nano--{_CODE}",
        f"jinaai/jina-embeddings-v5-text-small--{_CODE}",
        _MODULE,
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a checkpoint with a merged adapter and return the plan of its GGUF file. Raises ConversionError."""
        if checkpoint.adapter is None:
            raise ConversionError(
                f"{checkpoint.folder / 'adapters'}: missing; without the adapter of a task, the weights are those of no "
                f"embedding model. Add the folder, and choose a task with {FLAG}"
            )
        hidden = checkpoint.positive_int("hidden_size")
        matryoshka = _matryoshka(checkpoint, hidden)
        pooling = _pooling(checkpoint, hidden)
        if any(name.endswith("layers.0.self_attn.q_norm.weight") for name in checkpoint.weights.tensors):
            return plan_embedder(checkpoint, pooling, matryoshka)
        return replace(plan_eurobert(checkpoint, pooling), matryoshka=matryoshka)


def _pooling(checkpoint: Checkpoint, hidden: int) -> str:
    """Return the pooling: that of the code, unless modules of sentence-transformers follow it."""
    kinds = {kind for kind, _ in checkpoint.modules or []}
    return "last" if kinds <= {_MODULE, "Normalize"} else checkpoint.pooling(hidden, {_MODULE})


def _matryoshka(checkpoint: Checkpoint, hidden: int) -> tuple[int, int] | None:
    """Return the range of dimensions in the model card; None if it describes another size of the model."""
    match = _MATRYOSHKA.search(checkpoint.card)
    lengths = sorted(map(int, match[1].split(","))) if match else []
    return (lengths[0], hidden) if lengths and lengths[-1] == hidden and lengths[0] > 0 else None
