"""The common part of encoders with llama.cpp's architecture `bert`: BERT, DistilBERT, RoBERTa, XLM-RoBERTa.

Architecture: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018. Tensor names: those of
transformers' BertModel and XLMRobertaModel in the checkpoint, llama.cpp's for `bert` in the GGUF file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import PlannedTensor
from edgeembed_convert.families.settings import check_fixed, read_epsilon, read_heads
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer import WordPiece, read_wordpiece
from edgeembed_convert.tokenizer_json import model_type
from edgeembed_convert.unigram import Unigram, read_unigram
from edgeembed_convert.views import row_range

ARCHITECTURE = "bert"
# The only values that the graph supports. They are also the defaults of transformers' configurations.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
# BertConfig's and XLMRobertaConfig's, if config.json has no value.
_DEFAULT_EPSILON = 1e-12
_DEFAULT_TOKEN_TYPES = 2
# RobertaConfig's, XLMRobertaConfig's and CamembertConfig's.
_DEFAULT_PAD = 1
LAYER_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
"""Part of a layer in BertModel -> in the GGUF file."""


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of an encoder in config.json."""

    hidden: int
    heads: int
    layers: int
    feed_forward: int
    vocabulary: int
    positions: int
    """Rows of the table of positions."""
    first_position: int
    """Row of the table for the first token of a text."""
    token_types: int
    """Rows of the table of token types; 0 if there is none."""
    epsilon: float

    @property
    def context(self) -> int:
        """Longest text in tokens."""
        return self.positions - self.first_position


def read_shape(checkpoint: Checkpoint, *, first_position: int = 0, token_types: int | None = None) -> EncoderShape:
    """Return the sizes of an encoder. Raises ConversionError for what llama.cpp's BERT does not support.

    token_types: instead of type_vocab_size in config.json.
    """
    check_fixed(checkpoint, _FIXED, "BERT")
    hidden = checkpoint.positive_int("hidden_size")
    positions = checkpoint.positive_int("max_position_embeddings")
    if first_position >= positions:
        raise ConversionError(
            f"{checkpoint.config_file}: max_position_embeddings {positions} leaves no position after row {first_position}"
        )
    if token_types is None:
        token_types = checkpoint.positive_int("type_vocab_size", _DEFAULT_TOKEN_TYPES)
    return EncoderShape(
        hidden=hidden,
        heads=read_heads(checkpoint, hidden),
        layers=checkpoint.positive_int("num_hidden_layers"),
        feed_forward=checkpoint.positive_int("intermediate_size"),
        vocabulary=checkpoint.positive_int("vocab_size"),
        positions=positions,
        first_position=first_position,
        token_types=token_types,
        epsilon=read_epsilon(checkpoint, "layer_norm_eps", _DEFAULT_EPSILON),
    )


def read_shape_after_padding(checkpoint: Checkpoint, *, token_types: int | None = None) -> EncoderShape:
    """Return the sizes of an encoder whose positions are counted from pad_token_id + 1 (a convention of fairseq).

    token_types: as for `read_shape`. Raises ConversionError.
    """
    pad = checkpoint.config.get("pad_token_id", _DEFAULT_PAD)
    if not isinstance(pad, int) or isinstance(pad, bool) or pad < 0:
        raise ConversionError(
            f"{checkpoint.config_file}: pad_token_id = {pad!r} is not a token id; positions are counted from it"
        )
    return read_shape(checkpoint, first_position=pad + 1, token_types=token_types)


def read_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> WordPiece | Unigram:
    """Return the tokenizer: WordPiece, or XLM-RoBERTa's Unigram as in multilingual MiniLM and E5-small.

    Raises ConversionError.
    """
    folder = checkpoint.model_folder
    if model_type(folder) == "Unigram":
        return read_unigram(folder, vocabulary)
    return read_wordpiece(folder, vocabulary, lowercases_input=checkpoint.lowercases_input)


def plain_name(name: str) -> str:
    """Return BertModel's name of a tensor: without the prefix of models with a head, with the new names in LayerNorm."""
    plain = name.removeprefix("bert.").removeprefix("roberta.")
    if plain.endswith(".gamma"):
        return plain.removesuffix("gamma") + "weight"
    if plain.endswith(".beta"):
        return plain.removesuffix("beta") + "bias"
    return plain


def encoder_metadata(shape: EncoderShape, pooling: str, tokenizer: WordPiece | Unigram | BytePairs) -> Metadata:
    """Return the keys of the architecture and the tokenizer."""
    arch = ARCHITECTURE
    return {
        Keys.LLM.BLOCK_COUNT.format(arch=arch): shape.layers,
        Keys.LLM.CONTEXT_LENGTH.format(arch=arch): shape.context,
        Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): shape.hidden,
        Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): shape.feed_forward,
        Keys.LLM.VOCAB_SIZE.format(arch=arch): len(tokenizer.pieces),
        Keys.Attention.HEAD_COUNT.format(arch=arch): shape.heads,
        Keys.Attention.LAYERNORM_EPS.format(arch=arch): shape.epsilon,
        Keys.Attention.CAUSAL.format(arch=arch): False,
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
        # llama.cpp refuses 0, also for a model without the table.
        Keys.Tokenizer.TOKEN_TYPE_COUNT: max(1, shape.token_types),
        **tokenizer.metadata(),
    }


def encoder_tensors(
    stored: StoredTensors,
    shape: EncoderShape,
    *,
    layers: str = "encoder.layer",
    parts: Mapping[str, str] = LAYER_PARTS,
) -> Iterator[PlannedTensor]:
    """Yield the tensors of the encoder in the order of the computation.

    layers: beginning of the names of a layer's tensors. parts: part of a layer in the checkpoint -> in the GGUF file.
    """
    hidden = shape.hidden
    yield stored.place("embeddings.word_embeddings.weight", "token_embd.weight", shape.vocabulary, hidden)
    table = stored.take("embeddings.position_embeddings.weight", shape.positions, hidden)
    # llama.cpp counts positions from 0.
    yield PlannedTensor("position_embd.weight", row_range(table, shape.first_position, shape.positions), keep_f32=True)
    if shape.token_types:
        yield stored.place(
            "embeddings.token_type_embeddings.weight", "token_types.weight", shape.token_types, hidden, keep_f32=True
        )
    for end in ("weight", "bias"):
        yield stored.place(f"embeddings.LayerNorm.{end}", f"token_embd_norm.{end}", hidden)
    for layer in range(shape.layers):
        for part, short in parts.items():
            outputs = {"ffn_up": shape.feed_forward, "attn_qkv": 3 * hidden}.get(short, hidden)
            inputs = shape.feed_forward if short == "ffn_down" else hidden
            matrix = (outputs,) if short.endswith("norm") else (outputs, inputs)
            yield stored.place(f"{layers}.{layer}.{part}.weight", f"blk.{layer}.{short}.weight", *matrix)
            yield stored.place(f"{layers}.{layer}.{part}.bias", f"blk.{layer}.{short}.bias", outputs)
