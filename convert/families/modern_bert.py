"""ModernBERT encoders: gte-modernbert-base, modernbert-embed-base, granite-embedding R2 and similar ones.

Architecture: Warner et al., "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder", 2024: rotary positions, layer
norms without bias before each part, GeGLU; every n-th layer has full attention, the others a window around each token.
Tensor names: those of transformers' ModernBertModel in the checkpoint, llama.cpp's for `modern-bert` in the GGUF file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs, read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.settings import check_fixed, read_epsilon, read_heads, rope_base
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.sentencepiece import SentencePieces, read_sentencepieces
from edgeembed_convert.tokenizer_json import has_byte_pieces

ARCHITECTURE = "modern-bert"
# The only values that the graph supports. They are also the defaults of transformers' ModernBertConfig.
_FIXED = {
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
}
# The gated activations in llama.cpp's graph (`modern-bert.hidden_activation`).
_ACTIVATIONS = ("gelu", "silu")
# ModernBertConfig's, if config.json has no value.
_DEFAULT_EPSILON = 1e-5
_DEFAULT_GLOBAL_EVERY = 3
# granite-embedding-311m-multilingual-r2's model card: "Truncate embeddings to 512, 384, 256, or 128 dimensions ..."
_MATRYOSHKA = re.compile(r"Truncate embeddings to ([\d, or]+) dimensions")
# The prediction head and the output layer of masked language models.
_DROPPED = ("head.", "decoder.")


class ModernBertParts(NamedTuple):
    """What a GGUF file of ModernBERT consists of."""

    hidden: int
    metadata: Metadata
    tensors: list[PlannedTensor]
    tokenizer: BytePairs | SentencePieces


class ModernBert:
    """The ModernBERT family."""

    architectures = ("ModernBertModel", "ModernBertForMaskedLM")
    model_types = ("modernbert",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a ModernBERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        pooling = checkpoint.pooling(checkpoint.positive_int("hidden_size"))
        parts = read_modern_bert(checkpoint, pooling)
        matryoshka = _matryoshka(checkpoint, parts.hidden)
        return ModelPlan(ARCHITECTURE, parts.hidden, pooling, parts.metadata, parts.tensors, matryoshka=matryoshka)


def read_modern_bert(
    checkpoint: Checkpoint,
    pooling: str,
    head: Callable[[StoredTensors, int], Iterable[PlannedTensor]] | None = None,
) -> ModernBertParts:
    """Return the parts of the GGUF file of a ModernBERT checkpoint. Raises ConversionError.

    head: returns the tensors behind the encoder, of the stored ones and the hidden size.
    """
    check_fixed(checkpoint, _FIXED, "ModernBERT")
    activation = checkpoint.config.get("hidden_activation", "gelu")
    if activation not in _ACTIVATIONS:
        raise ConversionError(
            f"{checkpoint.config_file}: hidden_activation = {activation!r}; llama.cpp's ModernBERT supports only"
            f" {' and '.join(_ACTIVATIONS)}"
        )
    hidden = checkpoint.positive_int("hidden_size")
    layers = checkpoint.positive_int("num_hidden_layers")
    vocabulary = checkpoint.positive_int("vocab_size")
    tokenizer = _read_tokenizer(checkpoint, vocabulary)
    if not tokenizer.adds_bos or not tokenizer.adds_eos:
        raise ConversionError(f"{tokenizer.file}: the post-processor must add a special token before and after a text")
    window = checkpoint.positive_int("local_attention")
    if window % 2:
        raise ConversionError(f"{checkpoint.config_file}: local_attention = {window}; expected an even number")
    stored = StoredTensors(checkpoint, _plain_name if head else _place, "ModernBERT encoder")
    tensors = list(_tensors(stored, hidden, layers, checkpoint.positive_int("intermediate_size"), vocabulary))
    if head is not None:
        tensors.extend(head(stored, hidden))
    stored.check_all_placed()
    arch = ARCHITECTURE
    metadata: Metadata = {
        Keys.LLM.BLOCK_COUNT.format(arch=arch): layers,
        Keys.LLM.CONTEXT_LENGTH.format(arch=arch): checkpoint.positive_int("max_position_embeddings"),
        Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
        Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): checkpoint.positive_int("intermediate_size"),
        Keys.LLM.VOCAB_SIZE.format(arch=arch): vocabulary,
        Keys.Attention.HEAD_COUNT.format(arch=arch): read_heads(checkpoint, hidden),
        Keys.Attention.LAYERNORM_EPS.format(arch=arch): read_epsilon(checkpoint, "norm_eps", _DEFAULT_EPSILON),
        Keys.Attention.CAUSAL.format(arch=arch): False,
        Keys.Rope.FREQ_BASE.format(arch=arch): rope_base(checkpoint, "global_rope_theta", "full_attention"),
        Keys.Rope.SCALING_TYPE.format(arch=arch): "none",
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
        f"{arch}.hidden_activation": str(activation),
        **tokenizer.metadata(),
        # llama.cpp uses bos and eos; the checkpoint calls them cls and sep.
        "tokenizer.ggml.cls_token_id": tokenizer.special["bos"],
        Keys.Tokenizer.SEP_ID: tokenizer.special["eos"],
    }
    every = _global_every(checkpoint, layers)
    if every > 1 and layers > 1:  # llama.cpp aborts if no layer uses the window
        metadata |= {
            Keys.Attention.SLIDING_WINDOW.format(arch=arch): window,
            Keys.Attention.SLIDING_WINDOW_PATTERN.format(arch=arch): every,
            Keys.Rope.FREQ_BASE_SWA.format(arch=arch): rope_base(checkpoint, "local_rope_theta", "sliding_attention"),
        }
    return ModernBertParts(hidden, metadata, tensors, tokenizer)


def _read_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> BytePairs | SentencePieces:
    """Return the tokenizer: byte-level BPE, or Gemma's as in granite-embedding-311m-multilingual-r2.

    llama.cpp's converter writes the latter as BPE that never joins across a new line; as SentencePiece's it has the ids of
    the checkpoint. Raises ConversionError.
    """
    if has_byte_pieces(checkpoint.model_folder):
        return read_sentencepieces(checkpoint.model_folder, vocabulary)
    return read_byte_bpe(checkpoint.model_folder, checkpoint.config, vocabulary)


def _matryoshka(checkpoint: Checkpoint, hidden: int) -> tuple[int, int] | None:
    """Return the smallest and largest dimensions in the model card of Granite; None if it has none."""
    match = _MATRYOSHKA.search(checkpoint.card)
    sizes = [int(number) for number in re.findall(r"\d+", match[1])] if match else []
    return (min(sizes), hidden) if sizes and min(sizes) > 0 and max(sizes) < hidden else None


def _global_every(checkpoint: Checkpoint, layers: int) -> int:
    """Return n, where layers 0, n, 2n, ... have full attention. Raises ConversionError for any other order."""
    types = checkpoint.config.get("layer_types")
    if types is None:
        every = checkpoint.config.get("global_attn_every_n_layers", _DEFAULT_GLOBAL_EVERY)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ConversionError(
                f"{checkpoint.config_file}: global_attn_every_n_layers = {every!r}; expected a positive integer"
            )
        return every
    for every in range(1, layers + 1):
        if types == ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]:
            return every
    raise ConversionError(
        f"{checkpoint.config_file}: layer_types = {types!r}; expected full_attention in layers 0, n, 2n, ... of {layers}"
    )


def _plain_name(name: str) -> str:
    return name.removeprefix("model.")


def _place(name: str) -> str | None:
    plain = _plain_name(name)
    return None if plain.startswith(_DROPPED) else plain


def _tensors(stored: StoredTensors, hidden: int, layers: int, feed_forward: int, vocabulary: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    yield stored.place("embeddings.tok_embeddings.weight", "token_embd.weight", vocabulary, hidden)
    yield stored.place("embeddings.norm.weight", "token_embd_norm.weight", hidden)
    for layer in range(layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        if layer:  # the embeddings are normalised already
            yield stored.place(f"{source}.attn_norm.weight", f"{target}.attn_norm.weight", hidden)
        yield stored.place(f"{source}.attn.Wqkv.weight", f"{target}.attn_qkv.weight", 3 * hidden, hidden)
        yield stored.place(f"{source}.attn.Wo.weight", f"{target}.attn_output.weight", hidden, hidden)
        yield stored.place(f"{source}.mlp_norm.weight", f"{target}.ffn_norm.weight", hidden)
        yield stored.place(f"{source}.mlp.Wi.weight", f"{target}.ffn_up.weight", 2 * feed_forward, hidden)
        yield stored.place(f"{source}.mlp.Wo.weight", f"{target}.ffn_down.weight", hidden, feed_forward)
    yield stored.place("final_norm.weight", "output_norm.weight", hidden)
