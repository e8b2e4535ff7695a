"""The common part of decoder families: sizes in config.json and the tensors of a layer.

Tensor names: in the checkpoint those of transformers' LlamaModel, Qwen3Model and Gemma3TextModel, in the file llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from gguf import Keys, PoolingType

from edgeembed.engine.classifier import CLASSIFIER_KEY
from edgeembed.engine.float_strings import encode_floats
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.classes import Outputs, read_outputs
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.settings import positive_float
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.views import Interleaved, TensorSource
from edgeembed_convert.weights import StoredTensor

_SCORE = "score.weight"


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder with grouped-query attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    """Size of one head; heads * head may differ from `hidden`."""
    feed_forward: int
    vocabulary: int
    context: int
    epsilon: float

    def metadata(self, arch: str) -> Metadata:
        """Return the `{arch}.*` keys for these sizes."""
        return {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): self.layers,
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): self.context,
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): self.hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): self.feed_forward,
            Keys.LLM.VOCAB_SIZE.format(arch=arch): self.vocabulary,
            Keys.Attention.HEAD_COUNT.format(arch=arch): self.heads,
            Keys.Attention.HEAD_COUNT_KV.format(arch=arch): self.kv_heads,
            Keys.Attention.KEY_LENGTH.format(arch=arch): self.head,
            Keys.Attention.VALUE_LENGTH.format(arch=arch): self.head,
            Keys.Attention.LAYERNORM_RMS_EPS.format(arch=arch): self.epsilon,
        }


def read_shape(checkpoint: Checkpoint, *, optional: bool = False) -> DecoderShape:
    """Return the sizes in config.json. Raises ConversionError if they are missing or impossible.

    optional: num_key_value_heads may be missing, which means num_attention_heads, and head_dim, hidden_size for all heads.
    """
    heads, hidden = checkpoint.positive_int("num_attention_heads"), checkpoint.positive_int("hidden_size")

    def size(key: str, default: int) -> int:
        missing = optional and checkpoint.config.get(key) is None
        return default if missing else checkpoint.positive_int(key)

    kv_heads, head = size("num_key_value_heads", heads), size("head_dim", hidden // heads)
    if optional and checkpoint.config.get("head_dim") is None and hidden % heads:
        raise ConversionError(f"{checkpoint.config_file}: hidden_size {hidden} is not a multiple of {heads} heads")
    if heads % kv_heads:
        raise ConversionError(
            f"{checkpoint.config_file}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    return DecoderShape(
        layers=checkpoint.positive_int("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        feed_forward=checkpoint.positive_int("intermediate_size"),
        vocabulary=checkpoint.positive_int("vocab_size"),
        context=checkpoint.positive_int("max_position_embeddings"),
        epsilon=positive_float(checkpoint, "rms_norm_eps"),
    )


def plain_name(name: str) -> str:
    """Return the name of a tensor in the plain model, without the prefix `model.` of models with a head."""
    return name.removeprefix("model.")


def plain_layers(
    stored: StoredTensors, shape: DecoderShape, *, biases: Collection[str] = (), interleaved: bool = False
) -> Iterator[PlannedTensor]:
    """Yield all layers of Llama and of models like it, each with a norm before its two parts, and the last norm.

    biases, interleaved: as for `layer_projections`.
    """
    for layer in range(shape.layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        yield stored.place(f"{source}.input_layernorm.weight", f"{target}.attn_norm.weight", shape.hidden)
        yield from layer_projections(stored, shape, layer, biases=biases, interleaved=interleaved)
        yield stored.place(f"{source}.post_attention_layernorm.weight", f"{target}.ffn_norm.weight", shape.hidden)
    yield stored.place("norm.weight", "output_norm.weight", shape.hidden)


def layer_projections(
    stored: StoredTensors, shape: DecoderShape, layer: int, *, biases: Collection[str] = (), interleaved: bool = False
) -> Iterator[PlannedTensor]:
    """Yield the projections of a layer, without its norms.

    biases: those of q, k, v and o that have one. interleaved: whether the graph turns neighbours (see `views.Interleaved`).
    """
    query, key_value = shape.heads * shape.head, shape.kv_heads * shape.head
    attention = {
        "q": ("attn_q", (query, shape.hidden)),
        "k": ("attn_k", (key_value, shape.hidden)),
        "v": ("attn_v", (key_value, shape.hidden)),
        "o": ("attn_output", (shape.hidden, query)),
    }
    for part, (short, sizes) in attention.items():
        for end, taken in (("weight", sizes), ("bias", sizes[:1])):
            if end == "weight" or part in biases:
                tensor = stored.take(f"layers.{layer}.self_attn.{part}_proj.{end}", *taken)
                turned = interleaved and part in ("q", "k")
                source: TensorSource = Interleaved(tensor, shape.head) if turned else tensor
                yield PlannedTensor(f"blk.{layer}.{short}.{end}", source)
    for part in ("gate", "up"):
        name, target = f"layers.{layer}.mlp.{part}_proj.weight", f"blk.{layer}.ffn_{part}.weight"
        yield stored.place(name, target, shape.feed_forward, shape.hidden)
    name, target = f"layers.{layer}.mlp.down_proj.weight", f"blk.{layer}.ffn_down.weight"
    yield stored.place(name, target, shape.hidden, shape.feed_forward)


# --- rerankers: text generators that answer a prompt --------------------------------------------------------------------


def check_reranker_modules(checkpoint: Checkpoint) -> None:
    """Raise ConversionError if modules.json has more than the decoder and the score of its answer."""
    if unknown := {kind for kind, _ in checkpoint.modules or []} - {"Transformer", "LogitScore"}:
        raise ConversionError(
            f"{checkpoint.modules_file}: modules of the kind {', '.join(sorted(unknown))} cannot be converted"
        )


def read_lm_head(
    checkpoint: Checkpoint, stored: StoredTensors, embeddings: StoredTensor, *, tied: bool, required: bool = True
) -> StoredTensor:
    """Return the LM head: its own weights, or the table of embeddings if they are tied to it or not there.

    required: whether to raise ConversionError if they are neither.
    """
    own = stored.take("lm_head.weight", *embeddings.shape) if "lm_head.weight" in stored else None
    if own is None and not tied and required:
        raise ConversionError(
            f"{checkpoint.model_folder}: the weights have no lm_head.weight, and config.json does not tie it to embed_tokens"
        )
    return embeddings if own is None or tied else own  # transformers ignores a stored head if the weights are tied


# --- classifiers: a linear layer behind the last token --------------------------------------------------------------------


def read_class_outputs(checkpoint: Checkpoint) -> Outputs | None:
    """Return the outputs of a text generator that was made a classifier; None for all others, and for rerankers.

    Raises ConversionError.
    """
    name = str(checkpoint.config.get("architectures"))
    if not name.endswith("ForSequenceClassification']"):
        return None
    (labels, *_) = StoredTensors(checkpoint, plain_name, "classifier").shape(_SCORE)
    if labels == 1 and checkpoint.task != "classify":
        return None
    return read_outputs(checkpoint, labels)


def as_classifier(checkpoint: Checkpoint, plan: ModelPlan, outputs: Outputs, weight: StoredTensor) -> ModelPlan:
    """Return the plan of a decoder with a classifier of the last token, which our engine computes.

    Most graphs of llama.cpp have none, and that of Qwen3 applies a softmax.
    """
    pad, end = checkpoint.config.get("pad_token_id"), plan.metadata.get(Keys.Tokenizer.EOS_ID)
    # transformers takes the last token that is not for padding: if the end token is, the one before it.
    without_end: Metadata = {Keys.Tokenizer.ADD_EOS: False} if pad is not None and pad == end else {}
    metadata: Metadata = {
        **plan.metadata,
        **without_end,
        **outputs.keys(plan.architecture),
        Keys.LLM.POOLING_TYPE.format(arch=plan.architecture): int(PoolingType.RANK),
        CLASSIFIER_KEY: encode_floats(weight.values()),
    }
    return replace(plan, pooling="rank", metadata=metadata, prompts={})


def take_class_weights(stored: StoredTensors, shape: DecoderShape, outputs: Outputs) -> StoredTensor:
    """Take the weights of the classifier, shape (labels, hidden)."""
    return stored.take(_SCORE, outputs.count, shape.hidden)
