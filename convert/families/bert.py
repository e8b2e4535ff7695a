"""BERT encoders: MiniLM, BGE, E5, GTE and their like.

Architecture: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018. Tensor names: in the checkpoint
those of transformers' BertModel, in the GGUF file those of llama.cpp's architecture `bert`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer import read_wordpiece
from edgeembed_convert.weights import StoredTensor

_ARCHITECTURE = "bert"
# What the graph computes; where config.json is silent, transformers' BertConfig assumes the same.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
# BertConfig's, where config.json is silent.
_DEFAULT_EPSILON = 1e-12
_DEFAULT_TOKEN_TYPES = 2
# Buffers, the pooler and the prediction heads: an embedding model computes nothing with them.
_DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls.")
_LAYER_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


class Bert:
    """The BERT family."""

    architectures = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
    model_types = ("bert",)

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Check a BERT checkpoint and plan its GGUF file. Raises ConversionError."""
        for key, value in _FIXED.items():
            if checkpoint.config.get(key, value) != value:
                raise ConversionError(
                    f"{checkpoint.config_file}: {key} = {checkpoint.config[key]!r}; llama.cpp's BERT has only {value!r}"
                )
        hidden = checkpoint.positive_int("hidden_size")
        heads = checkpoint.positive_int("num_attention_heads")
        if hidden % heads:
            raise ConversionError(
                f"{checkpoint.config_file}: hidden_size {hidden} is no multiple of num_attention_heads {heads}"
            )
        epsilon = checkpoint.config.get("layer_norm_eps", _DEFAULT_EPSILON)
        if not isinstance(epsilon, float) or not 0 < epsilon < 1:
            raise ConversionError(f"{checkpoint.config_file}: layer_norm_eps = {epsilon!r} is not a small positive number")
        pooling = checkpoint.pooling(hidden)
        tokenizer = read_wordpiece(
            checkpoint.model_folder,
            checkpoint.positive_int("vocab_size"),
            lowercases_input=checkpoint.lowercases_input,
        )
        tensors = list(_tensors(checkpoint, hidden))
        arch = _ARCHITECTURE
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("num_hidden_layers"),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): checkpoint.positive_int("max_position_embeddings"),
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): checkpoint.positive_int("intermediate_size"),
            Keys.LLM.VOCAB_SIZE.format(arch=arch): len(tokenizer.pieces),
            Keys.Attention.HEAD_COUNT.format(arch=arch): heads,
            Keys.Attention.LAYERNORM_EPS.format(arch=arch): epsilon,
            Keys.Attention.CAUSAL.format(arch=arch): False,
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            Keys.Tokenizer.TOKEN_TYPE_COUNT: _token_types(checkpoint),
            **tokenizer.metadata(),
        }
        return ModelPlan(arch, hidden, pooling, metadata, tensors)


def _token_types(checkpoint: Checkpoint) -> int:
    return checkpoint.positive_int("type_vocab_size") if "type_vocab_size" in checkpoint.config else _DEFAULT_TOKEN_TYPES


def _tensors(checkpoint: Checkpoint, hidden: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation; every stored one must have its place and its shape."""
    stored = _by_plain_name(checkpoint)
    feed_forward = checkpoint.positive_int("intermediate_size")
    rows = {
        "word": checkpoint.positive_int("vocab_size"),
        "position": checkpoint.positive_int("max_position_embeddings"),
        "token_type": _token_types(checkpoint),
    }

    def take(source: str, name: str, *shape: int, keep_f32: bool = False) -> PlannedTensor:
        tensor = stored.pop(source, None)
        if tensor is None:
            raise ConversionError(
                f"{checkpoint.model_folder}: the weights have no tensor {source}, which config.json promises"
            )
        if tensor.shape != shape:
            raise ConversionError(
                f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}, config.json makes it {list(shape)}"
            )
        return PlannedTensor(name, tensor, keep_f32)

    yield take("embeddings.word_embeddings.weight", "token_embd.weight", rows["word"], hidden)
    yield take("embeddings.position_embeddings.weight", "position_embd.weight", rows["position"], hidden, keep_f32=True)
    yield take("embeddings.token_type_embeddings.weight", "token_types.weight", rows["token_type"], hidden, keep_f32=True)
    for end in ("weight", "bias"):
        yield take(f"embeddings.LayerNorm.{end}", f"token_embd_norm.{end}", hidden)
    for layer in range(checkpoint.positive_int("num_hidden_layers")):
        for part, short in _LAYER_PARTS.items():
            outputs = feed_forward if short == "ffn_up" else hidden
            inputs = feed_forward if short == "ffn_down" else hidden
            shape = (outputs,) if part.endswith("LayerNorm") else (outputs, inputs)
            yield take(f"encoder.layer.{layer}.{part}.weight", f"blk.{layer}.{short}.weight", *shape)
            yield take(f"encoder.layer.{layer}.{part}.bias", f"blk.{layer}.{short}.bias", outputs)
    if stored:
        names = ", ".join(sorted(stored)[:5])
        raise ConversionError(
            f"{checkpoint.model_folder}: {len(stored)} tensors have no place in a BERT encoder and would be lost: {names}"
        )


def _by_plain_name(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Give the encoder's tensors under BertModel's names: without the heads' prefix, with LayerNorm's present endings."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in checkpoint.weights.tensors.items():
        plain = name.removeprefix("bert.")
        if plain.endswith(".gamma"):
            plain = plain.removesuffix("gamma") + "weight"
        elif plain.endswith(".beta"):
            plain = plain.removesuffix("beta") + "bias"
        if plain.startswith(_DROPPED):
            continue
        if plain in found:
            raise ConversionError(f"{tensor.file}: {found[plain].name} and {name} are the same tensor of a BERT encoder")
        found[plain] = tensor
    return found
