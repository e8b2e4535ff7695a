"""NeoBERT.

Architecture: Le Breton et al., "NeoBERT: A Next-Generation BERT", 2025: RMS norms before each part, rotary positions of
adjacent numbers, SwiGLU, no biases. Tensor names: those of the makers' own NeoBERT (model.py) in the checkpoint, llama.cpp's
for `neo-bert` in the GGUF file. In the checkpoint, the joint matrix has queries, keys and values head by head; llama.cpp's
graph takes all queries first, and its converter does not reorder them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from gguf import Keys, PoolingType, RopeScalingType

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.settings import check_fixed, read_epsilon, read_heads
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer import read_wordpiece
from edgeembed_convert.views import Derived
from edgeembed_convert.weights import Float32Array

_ARCHITECTURE = "neo-bert"
# The only values that the graph supports. They are also the defaults of NeoBERTConfig, or built into it.
_FIXED = {"hidden_act": "SwiGLU", "ngpt": False, "rms_norm": True, "rope": True}
_DEFAULT_EPSILON = 1e-6
_ROPE_BASE = 10000.0
_MULTIPLE = 8
"""Of the width of the feed-forward network, for SwiGLU of xformers."""
_PARTS = 3
# The prediction head.
_DROPPED = ("decoder.",)


class NeoBert:
    """The NeoBERT family."""

    architectures = ("NeoBERT", "NeoBERTLMHead")
    model_types = ("neobert",)
    followed_code = ("model.NeoBERT", "chandar-lab/NeoBERT--model.NeoBERT")

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a NeoBERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        check_fixed(checkpoint, _FIXED, "NeoBERT")
        hidden, vocabulary = checkpoint.positive_int("hidden_size"), checkpoint.positive_int("vocab_size")
        heads = read_heads(checkpoint, hidden)
        pooling = checkpoint.pooling(hidden)
        tokenizer = read_wordpiece(checkpoint.model_folder, vocabulary, lowercases_input=checkpoint.lowercases_input)
        feed_forward = _feed_forward(checkpoint)
        stored = StoredTensors(checkpoint, _place, "NeoBERT encoder")
        tensors = list(_tensors(stored, checkpoint, heads, feed_forward))
        stored.check_all_placed()
        arch = _ARCHITECTURE
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("num_hidden_layers"),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): checkpoint.positive_int("max_length"),
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): feed_forward,
            Keys.LLM.VOCAB_SIZE.format(arch=arch): vocabulary,
            Keys.Attention.HEAD_COUNT.format(arch=arch): heads,
            Keys.Attention.LAYERNORM_RMS_EPS.format(arch=arch): read_epsilon(checkpoint, "norm_eps", _DEFAULT_EPSILON),
            Keys.Attention.CAUSAL.format(arch=arch): False,
            Keys.Rope.FREQ_BASE.format(arch=arch): _ROPE_BASE,
            Keys.Rope.SCALING_TYPE.format(arch=arch): RopeScalingType.NONE.value,
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            Keys.Tokenizer.TOKEN_TYPE_COUNT: 1,
            **tokenizer.metadata(),
        }
        return ModelPlan(arch, hidden, pooling, metadata, tensors)


def _feed_forward(checkpoint: Checkpoint) -> int:
    """Return the width of the feed-forward network: two thirds of intermediate_size, for the gate has as much again."""
    width = 2 * checkpoint.positive_int("intermediate_size") // 3
    return -(-width // _MULTIPLE) * _MULTIPLE


def _place(name: str) -> str | None:
    return None if name.startswith(_DROPPED) else name.removeprefix("model.")


def _tensors(stored: StoredTensors, checkpoint: Checkpoint, heads: int, feed_forward: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    hidden = checkpoint.positive_int("hidden_size")
    yield stored.place("encoder.weight", "token_embd.weight", checkpoint.positive_int("vocab_size"), hidden)
    for layer in range(checkpoint.positive_int("num_hidden_layers")):
        source, target = f"transformer_encoder.{layer}", f"blk.{layer}"
        yield stored.place(f"{source}.attention_norm.weight", f"{target}.attn_norm.weight", hidden)
        joint = _ByParts(stored.take(f"{source}.qkv.weight", _PARTS * hidden, hidden), heads)
        yield PlannedTensor(f"{target}.attn_qkv.weight", joint)
        yield stored.place(f"{source}.wo.weight", f"{target}.attn_output.weight", hidden, hidden)
        yield stored.place(f"{source}.ffn_norm.weight", f"{target}.ffn_norm.weight", hidden)
        yield stored.place(f"{source}.ffn.w12.weight", f"{target}.ffn_up.weight", 2 * feed_forward, hidden)
        yield stored.place(f"{source}.ffn.w3.weight", f"{target}.ffn_down.weight", hidden, feed_forward)
    yield stored.place("layer_norm.weight", "enc.output_norm.weight", hidden)


@dataclass(frozen=True)
class _ByParts(Derived):
    """A matrix with the rows of all queries, then all keys, then all values, from one that has them head by head."""

    heads: int

    def rows(self) -> Iterator[Float32Array]:
        matrix = self.source.values()
        by_head = matrix.reshape(self.heads, _PARTS, -1, matrix.shape[1])
        yield np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(matrix.shape)
