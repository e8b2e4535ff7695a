"""The common part of nomic-bert encoders: keys of config.json and of the GGUF file.

Names: those of contrastors' NomicBertModel in config.json and in the checkpoint.
"""

from __future__ import annotations

from gguf import Keys, PoolingType

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.settings import positive_float, read_epsilon, read_heads
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer import WordPiece
from edgeembed_convert.unigram import Unigram

FIXED = {
    "causal": False,
    "parallel_block": False,
    "prenorm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}
"""The only values that the graphs support. They are also the defaults of contrastors' NomicBertConfig."""
_DEFAULT_EPSILON = 1e-12
_DROPPED = ("pooler.", "cls.")


def encoder_metadata(checkpoint: Checkpoint, arch: str, pooling: str, tokenizer: WordPiece | Unigram) -> Metadata:
    """Return the keys of the architecture and the tokenizer. Raises ConversionError."""
    hidden = checkpoint.positive_int("n_embd")
    return {
        Keys.LLM.BLOCK_COUNT.format(arch=arch): checkpoint.positive_int("n_layer"),
        Keys.LLM.CONTEXT_LENGTH.format(arch=arch): _context(checkpoint),
        Keys.LLM.EMBEDDING_LENGTH.format(arch=arch): hidden,
        Keys.LLM.FEED_FORWARD_LENGTH.format(arch=arch): checkpoint.positive_int("n_inner"),
        Keys.LLM.VOCAB_SIZE.format(arch=arch): len(tokenizer.pieces),
        Keys.Attention.HEAD_COUNT.format(arch=arch): read_heads(checkpoint, hidden, "n_head"),
        Keys.Attention.LAYERNORM_EPS.format(arch=arch): read_epsilon(checkpoint, "layer_norm_epsilon", _DEFAULT_EPSILON),
        Keys.Attention.CAUSAL.format(arch=arch): False,
        Keys.Rope.FREQ_BASE.format(arch=arch): positive_float(checkpoint, "rotary_emb_base"),
        Keys.LLM.POOLING_TYPE.format(arch=arch): int(PoolingType[pooling.upper()]),
        Keys.Tokenizer.TOKEN_TYPE_COUNT: checkpoint.positive_int("type_vocab_size"),
        **tokenizer.metadata(),
    }


def place(name: str) -> str | None:
    """Return the plain name of a tensor; None if an encoder does not need it."""
    plain = name.removeprefix("bert.")
    return None if plain.startswith(_DROPPED) else plain


def _context(checkpoint: Checkpoint) -> int:
    """Return the context of the training: beyond it the reference code changes the rotation, but llama.cpp does not."""
    positions = checkpoint.positive_int("n_positions")
    trained = checkpoint.config.get("max_trained_positions")
    return positions if trained is None else min(positions, checkpoint.positive_int("max_trained_positions"))
