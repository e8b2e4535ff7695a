"""nomic-embed-text-v2-moe: nomic-bert with XLM-RoBERTa's vocabulary, biases, and experts in every other layer.

Architecture: Nussbaum and Duderstadt, "Training Sparse Mixture Of Experts Text Embedding Models", 2025. A router chooses the
two most probable of eight experts for each token, whose outputs are added with these probabilities as weights (they do not
add up to 1), then a bias that is the same for all experts. Tensor names: those of contrastors' NomicBertModel in the
checkpoint, llama.cpp's for `nomic-bert-moe` in the GGUF file.

llama.cpp's graph does not add that bias, and its converter drops it. It is put where the graph adds it all the same. After
the attention's norm a token is h = w x + b, of which the experts compute m(h), and the last norm gets h + m(h) + bias. Let
the first norm have the bias b + s, with s = bias + t (the last norm subtracts a number t that is the same everywhere). For
the experts to see h, each row r of their first matrices, and of the router, has to multiply h + s as it did h. As the
numbers of x add up to 0, sum(h / w) = sum(b / w) for every token, so that c = sum((b + s) / w) is the same for all, and the
row is r - (r s / c) / w. Only rounding is different. t is chosen so that c is large, and the change of r small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from gguf import Keys

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.nomic_encoder import FIXED, encoder_metadata, place
from edgeembed_convert.families.settings import check_fixed
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.unigram import read_unigram
from edgeembed_convert.views import Derived, row_range
from edgeembed_convert.weights import Float32Array, StoredTensor

_ARCHITECTURE = "nomic-bert-moe"
# The only values that the graph supports, besides those of all.
_FIXED = {
    **FIXED,
    "activation_function": "gelu",
    "expert_choice_router": False,
    "ffn_div": 1.0,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "moe_normalize_expert_weights": False,
    "num_shared_experts": 0,
    "qkv_proj_bias": True,
}
_MOST_EXPERTS = 16
"""As many as edgeembed accepts in a file."""
_SHIFT = 0.25
_MOST_INVERSE, _LEAST_MEAN = 100, 0.1
"""Of 1 / w, as multiples of a usual one: otherwise the change of a row would be larger than the row."""


def plan_moe(checkpoint: Checkpoint) -> ModelPlan:
    """Validate a checkpoint with experts and return the plan of its GGUF file. Raises ConversionError."""
    check_fixed(checkpoint, _FIXED, _ARCHITECTURE)
    if checkpoint.config.get("use_rms_norm"):
        raise ConversionError(f"{checkpoint.config_file}: use_rms_norm is set; llama.cpp's {_ARCHITECTURE} has layer norms")
    hidden = checkpoint.positive_int("n_embd")
    experts, used = checkpoint.positive_int("num_experts"), checkpoint.positive_int("moe_top_k")
    if not used <= experts <= _MOST_EXPERTS:
        raise ConversionError(
            f"{checkpoint.config_file}: moe_top_k {used} of num_experts {experts}; expected at most {_MOST_EXPERTS} experts"
        )
    every = checkpoint.positive_int("moe_every_n_layers")
    if every == 1:
        raise ConversionError(f"{checkpoint.config_file}: moe_every_n_layers = 1, with which no layer has experts")
    pooling = checkpoint.pooling(hidden)
    tokenizer = read_unigram(checkpoint.model_folder, checkpoint.positive_int("vocab_size"))
    stored = StoredTensors(checkpoint, place, "nomic-bert encoder with experts")
    tensors = list(_tensors(stored, checkpoint, every))
    stored.check_all_placed()
    arch = _ARCHITECTURE
    metadata: Metadata = {
        **encoder_metadata(checkpoint, arch, pooling, tokenizer),
        Keys.LLM.EXPERT_COUNT.format(arch=arch): experts,
        Keys.LLM.EXPERT_USED_COUNT.format(arch=arch): used,
        Keys.LLM.MOE_EVERY_N_LAYERS.format(arch=arch): every,
    }
    return ModelPlan(arch, hidden, pooling, metadata, tensors)


def _tensors(stored: StoredTensors, checkpoint: Checkpoint, every: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    hidden, feed_forward = checkpoint.positive_int("n_embd"), checkpoint.positive_int("n_inner")
    rows, types = checkpoint.positive_int("vocab_size"), checkpoint.positive_int("type_vocab_size")

    def linear(source: str, target: str, outputs: int, inputs: int) -> Iterator[PlannedTensor]:
        yield stored.place(f"{source}.weight", f"{target}.weight", outputs, inputs)
        yield stored.place(f"{source}.bias", f"{target}.bias", outputs)

    def norm(source: str, target: str) -> Iterator[PlannedTensor]:
        for end in ("weight", "bias"):
            yield stored.place(f"{source}.{end}", f"{target}.{end}", hidden)

    yield stored.place("embeddings.word_embeddings.weight", "token_embd.weight", rows, hidden)
    yield stored.place("embeddings.token_type_embeddings.weight", "token_types.weight", types, hidden, keep_f32=True)
    yield from norm("emb_ln", "token_embd_norm")
    for layer in range(checkpoint.positive_int("n_layer")):
        source, target = f"encoder.layers.{layer}", f"blk.{layer}"
        yield from linear(f"{source}.attn.Wqkv", f"{target}.attn_qkv", 3 * hidden, hidden)
        yield from linear(f"{source}.attn.out_proj", f"{target}.attn_output", hidden, hidden)
        if layer % every == 1:
            yield from _expert_layer(stored, checkpoint, source, target)
        else:
            yield from norm(f"{source}.norm1", f"{target}.attn_output_norm")
            yield from linear(f"{source}.mlp.fc1", f"{target}.ffn_up", feed_forward, hidden)
            yield from linear(f"{source}.mlp.fc2", f"{target}.ffn_down", hidden, feed_forward)
        yield from norm(f"{source}.norm2", f"{target}.layer_output_norm")


def _expert_layer(stored: StoredTensors, checkpoint: Checkpoint, source: str, target: str) -> Iterator[PlannedTensor]:
    """Yield the norm after the attention, the router and the experts of a layer."""
    hidden, feed_forward = checkpoint.positive_int("n_embd"), checkpoint.positive_int("n_inner")
    experts = checkpoint.positive_int("num_experts")
    weight, bias = (stored.take(f"{source}.norm1.{end}", hidden) for end in ("weight", "bias"))
    moved = _MovedBias(weight, bias, stored.take(f"{source}.mlp.experts.bias", hidden))
    yield PlannedTensor(f"{target}.attn_output_norm.weight", weight)
    yield PlannedTensor(f"{target}.attn_output_norm.bias", _ShiftedNorm(bias, moved))
    router = stored.take(f"{source}.mlp.router.layer.weight", experts, hidden)
    yield PlannedTensor(f"{target}.ffn_gate_inp.weight", _Unshifted(router, moved), keep_f32=True)
    first, second = (
        stored.take(f"{source}.mlp.experts.mlp.{name}", experts * feed_forward, hidden) for name in ("w1", "w2")
    )
    yield PlannedTensor(f"{target}.ffn_up_exps.weight", _Unshifted(first, moved, experts))
    yield PlannedTensor(f"{target}.ffn_down_exps.weight", _Transposed(second, experts))


@dataclass(frozen=True)
class _MovedBias:
    """The bias of the experts, moved to the norm before them; see above. All have the shape (hidden,)."""

    norm_weight: StoredTensor
    norm_bias: StoredTensor
    bias: StoredTensor

    @cached_property
    def shift(self) -> npt.NDArray[np.float64]:
        """s: what is added to the norm's bias; all zeros if the experts have no bias."""
        bias = _vector(self.bias)
        if not bias.any():
            return bias
        inverse = self.inverse
        total = inverse.sum()
        usual = np.median(np.abs(inverse))
        if not (np.abs(inverse).max() <= _MOST_INVERSE * usual and abs(inverse.mean()) >= _LEAST_MEAN * usual):
            raise ConversionError(
                f"{self.norm_weight.file}: tensor {self.norm_weight.name}: some of its weights are too small, or have "
                "another sign, so that the bias of the experts cannot be moved to where llama.cpp adds it"
            )
        rest = ((_vector(self.norm_bias) + bias) * inverse).sum()
        shift: npt.NDArray[np.float64] = bias + np.copysign(_SHIFT, rest * total)
        return shift

    @cached_property
    def inverse(self) -> npt.NDArray[np.float64]:
        """1 / w."""
        with np.errstate(divide="ignore"):
            found: npt.NDArray[np.float64] = 1 / _vector(self.norm_weight)
        return found

    @cached_property
    def constant(self) -> float:
        """c: the sum of h / w after the shift."""
        return float(((_vector(self.norm_bias) + self.shift) * self.inverse).sum())


@dataclass(frozen=True)
class _ShiftedNorm(Derived):
    """The norm's bias with the shift."""

    moved: _MovedBias

    def rows(self) -> Iterator[Float32Array]:
        for rows in self.source.rows():
            yield (rows + self.moved.shift).astype(np.float32)


@dataclass(frozen=True)
class _Unshifted(Derived):
    """A matrix whose rows multiply a shifted token as the stored ones do an unshifted one."""

    moved: _MovedBias
    experts: int = 0
    """Of how many experts it has the matrices, one below the other; 0 for a single matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.source.shape
        return (self.experts, rows // self.experts, columns) if self.experts else (rows, columns)

    def rows(self) -> Iterator[Float32Array]:
        moved = self.moved
        if not moved.shift.any():
            yield from self.source.rows()
            return
        for rows in self.source.rows():
            yield (rows - np.outer(rows @ moved.shift / moved.constant, moved.inverse)).astype(np.float32)


@dataclass(frozen=True)
class _Transposed(Derived):
    """The matrices of all experts, which the stored one has one below the other, with rows and columns exchanged."""

    experts: int

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.source.shape
        return self.experts, columns, rows // self.experts

    def rows(self) -> Iterator[Float32Array]:
        count = self.source.shape[0] // self.experts
        for first in range(0, self.source.shape[0], count):
            yield np.ascontiguousarray(row_range(self.source, first, first + count).values().T)


def _vector(tensor: StoredTensor) -> npt.NDArray[np.float64]:
    return tensor.values().astype(np.float64)
