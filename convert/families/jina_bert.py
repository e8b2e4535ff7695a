"""Jina BERT encoders: jina-embeddings-v2.

Architecture: Günther et al., "Jina Embeddings 2: 8192-Token General-Purpose Text Embeddings for Long Documents", 2023: BERT
without a table of positions, but with ALiBi (Press et al., 2022) in both directions, and a gated feed-forward network. The
makers' own code has two forms: that of the models for texts, and that of jina-embeddings-v2-base-code, which also normalises
queries, keys and, once more, the sum after attention.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import Keys, PoolingType

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.bert_encoder import plain_name
from edgeembed_convert.families.roberta import frame_metadata, read_roberta_tokenizer
from edgeembed_convert.families.settings import check_fixed, read_epsilon, read_heads
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer import WordPiece, read_wordpiece
from edgeembed_convert.tokenizer_json import model_type
from edgeembed_convert.unigram import Unigram
from edgeembed_convert.views import row_range

_ARCHITECTURE = "jina-bert-v2"
# The only values that the graph supports.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "is_decoder": False,
    "add_cross_attention": False,
}
_REQUIRED = ("position_embedding_type", "feed_forward_type")
"""Without them the code uses other defaults, some of which depend on the version."""
_DEFAULT_EPSILON = 1e-12
# The pooler and the prediction head.
_DROPPED = ("pooler.", "cls.", "embeddings.position_ids", "embeddings.token_type_ids")
_ATTENTION = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
}
_CODE = "modeling_bert.JinaBertModel"


class JinaBert:
    """The family of jina-embeddings-v2."""

    architectures = ("JinaBertForMaskedLM", "JinaBertModel")
    model_types = ()
    followed_code = (
        _CODE,
        f"jinaai/jina-bert-implementation--{_CODE}",
        f"jinaai/jina-bert-v2-qk-post-norm--{_CODE}",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a Jina BERT checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        for key in _REQUIRED:
            if key not in checkpoint.config:
                raise ConversionError(f"{checkpoint.config_file}: {key} is missing; expected {_FIXED[key]!r}")
        check_fixed(checkpoint, _FIXED, "Jina BERT")
        hidden = checkpoint.positive_int("hidden_size")
        vocabulary = checkpoint.positive_int("vocab_size")
        pooling = checkpoint.pooling(hidden)
        tokenizer = _read_tokenizer(checkpoint, vocabulary)
        stored = StoredTensors(checkpoint, _place, "Jina BERT encoder")
        tensors = list(_tensors(stored, checkpoint, hidden, vocabulary))
        stored.check_all_placed()
        arch = _ARCHITECTURE
        metadata: Metadata = {
            Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("num_hidden_layers"),
            Keys.LLM.CONTEXT_LENGTH.format(arch=arch): checkpoint.positive_int("max_position_embeddings"),
            Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
            Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): checkpoint.positive_int("intermediate_size"),
            Keys.LLM.VOCAB_SIZE.format(arch=arch): vocabulary,
            Keys.Attention.HEAD_COUNT.format(arch=arch): read_heads(checkpoint, hidden),
            Keys.Attention.LAYERNORM_EPS.format(arch=arch): read_epsilon(checkpoint, "layer_norm_eps", _DEFAULT_EPSILON),
            Keys.Attention.CAUSAL.format(arch=arch): False,
            Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
            Keys.Tokenizer.TOKEN_TYPE_COUNT: checkpoint.positive_int("type_vocab_size"),
            **tokenizer.metadata(),
            **({} if isinstance(tokenizer, WordPiece) else frame_metadata(tokenizer)),
        }
        return ModelPlan(arch, hidden, pooling, metadata, tensors)


def _read_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> WordPiece | BytePairs | Unigram:
    """Return the tokenizer: BERT's for English, RoBERTa's for other languages and for code."""
    if model_type(checkpoint.model_folder) == "BPE":
        return read_roberta_tokenizer(checkpoint, vocabulary)
    return read_wordpiece(checkpoint.model_folder, vocabulary, lowercases_input=checkpoint.lowercases_input)


def _place(name: str) -> str | None:
    plain = plain_name(name)
    return None if plain.startswith(_DROPPED) else plain


def _tensors(stored: StoredTensors, checkpoint: Checkpoint, hidden: int, vocabulary: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    feed_forward = checkpoint.positive_int("intermediate_size")
    types = checkpoint.positive_int("type_vocab_size")

    def norm(source: str, target: str) -> Iterator[PlannedTensor]:
        for end in ("weight", "bias"):
            yield stored.place(f"{source}.{end}", f"{target}.{end}", hidden)

    yield stored.place("embeddings.word_embeddings.weight", "token_embd.weight", vocabulary, hidden)
    yield stored.place("embeddings.token_type_embeddings.weight", "token_types.weight", types, hidden, keep_f32=True)
    yield from norm("embeddings.LayerNorm", "token_embd_norm")
    for layer in range(checkpoint.positive_int("num_hidden_layers")):
        source, target = f"encoder.layer.{layer}", f"blk.{layer}"
        for part, short in _ATTENTION.items():
            yield stored.place(f"{source}.{part}.weight", f"{target}.{short}.weight", hidden, hidden)
            yield stored.place(f"{source}.{part}.bias", f"{target}.{short}.bias", hidden)
        yield from norm(f"{source}.attention.output.LayerNorm", f"{target}.attn_output_norm")
        if f"{source}.mlp.up_gated_layer.weight" in stored:
            yield from norm(f"{source}.attention.self.layer_norm_q", f"{target}.attn_q_norm")
            yield from norm(f"{source}.attention.self.layer_norm_k", f"{target}.attn_k_norm")
            yield from norm(f"{source}.layer_norm_1", f"{target}.attn_norm_2")
            both = stored.take(f"{source}.mlp.up_gated_layer.weight", 2 * feed_forward, hidden)
            # Here the gate is the second half, but llama.cpp takes the first one of a joint matrix for it.
            yield PlannedTensor(f"{target}.ffn_up.weight", row_range(both, 0, feed_forward))
            yield PlannedTensor(f"{target}.ffn_gate.weight", row_range(both, feed_forward, 2 * feed_forward))
            down, last = "mlp.down_layer", "layer_norm_2"
        else:
            yield stored.place(f"{source}.mlp.gated_layers.weight", f"{target}.ffn_up.weight", 2 * feed_forward, hidden)
            down, last = "mlp.wo", "mlp.layernorm"
        yield stored.place(f"{source}.{down}.weight", f"{target}.ffn_down.weight", hidden, feed_forward)
        yield stored.place(f"{source}.{down}.bias", f"{target}.ffn_down.bias", hidden)
        yield from norm(f"{source}.{last}", f"{target}.layer_output_norm")
