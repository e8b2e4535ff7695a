"""Tiny checkpoints of the encoders with rotary positions, ModernBERT and nomic-bert, with seeded random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import SPECIAL, Float32Array, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import (
    SIZES,
    TOKENS,
    random_dense,
    wordpiece_pieces,
    wordpiece_tokenizer_json,
    write_sentence_transformer,
)
from tests.convert.tiny_qwen3_checkpoint import tiny_vocabulary

# --- ModernBERT ---------------------------------------------------------------------------------------------------------

LOCAL_ATTENTION = 32
_MODERN_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
_ROLES = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}


def bpe_tokenizer_json(unmerged: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of tokenizer.json, like ModernBERT's: GPT-2's pattern, runs of spaces as tokens.

    unmerged: pieces that no merges lead to.
    """
    vocabulary, merges = tiny_vocabulary()
    vocabulary += unmerged
    added = [("    ", False), ("  ", False), *((piece, True) for piece in _MODERN_SPECIAL)]
    ids = {piece: len(vocabulary) + number for number, (piece, _) in enumerate(added)}

    def special(piece: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": piece, "type_id": 0}}

    texts = [{"Sequence": {"id": which, "type_id": 0}} for which in "AB"]
    start, end = special("[CLS]"), special("[SEP]")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[piece],
                "content": piece,
                "single_word": False,
                "lstrip": piece == "[MASK]",
                "rstrip": False,
                "normalized": not is_special,
                "special": is_special,
            }
            for piece, is_special in added
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, texts[0], end],
            "pair": [start, texts[0], end, texts[1], end],
            "special_tokens": {piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: number for number, piece in enumerate(vocabulary)},
            "merges": [list(merge) for merge in merges],
        },
    }


def make_tiny_modern_bert(
    folder: Path,
    *,
    pooling: str = "cls",
    seed: int = 0,
    tokenizer: dict[str, Any] | None = None,
    names: Mapping[str, str] = _ROLES,
    **changes: Any,
) -> Path:
    """Write a ModernBERT embedder with five layers, of which the first and the fourth have full attention.

    tokenizer: the content of tokenizer.json. names: its special tokens, by role. changes: of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or bpe_tokenizer_json()
    ids = tokenizer["model"]["vocab"] | {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    config = {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "attention_bias": False,
        "bos_token_id": ids[names["cls"]],
        "cls_token_id": ids[names["cls"]],
        "eos_token_id": ids[names["sep"]],
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "local_attention": LOCAL_ATTENTION,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 2 * TOKENS,
        "mlp_bias": False,
        "norm_bias": False,
        "norm_eps": 1e-5,
        "pad_token_id": ids[names["pad"]],
        "sep_token_id": ids[names["sep"]],
        "vocab_size": max(ids.values()) + 4,
        **SIZES,
        "num_hidden_layers": 5,
        **changes,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    own = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{role}_token": piece for role, piece in names.items()}}
    write_json(folder / "tokenizer_config.json", own)
    write_sentence_transformer(folder, config["hidden_size"], pooling)
    write_safetensors(folder / "model.safetensors", modern_bert_weights(config, seed))
    return folder


def modern_bert_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Float32Array]:
    """Return random weights under ModernBertModel's names."""
    random = np.random.default_rng(seed)
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]

    def norm() -> Float32Array:
        return (1 + random.standard_normal(hidden) * 0.1).astype(np.float32)

    def matrix(outputs: int, inputs: int) -> Float32Array:
        return (random.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)

    found = {
        "embeddings.tok_embeddings.weight": random.standard_normal((config["vocab_size"], hidden)).astype(np.float32),
        "embeddings.norm.weight": norm(),
    }
    for layer in range(config["num_hidden_layers"]):
        base = f"layers.{layer}"
        if layer:
            found[f"{base}.attn_norm.weight"] = norm()
        found[f"{base}.attn.Wqkv.weight"] = matrix(3 * hidden, hidden)
        found[f"{base}.attn.Wo.weight"] = matrix(hidden, hidden)
        found[f"{base}.mlp_norm.weight"] = norm()
        found[f"{base}.mlp.Wi.weight"] = matrix(2 * feed_forward, hidden)
        found[f"{base}.mlp.Wo.weight"] = matrix(hidden, feed_forward)
    return found | {"final_norm.weight": norm()}


# --- nomic-bert ---------------------------------------------------------------------------------------------------------


def make_tiny_nomic_bert(folder: Path, *, pooling: str = "mean", seed: int = 0) -> Path:
    """Write a nomic-bert embedder with the keys and tensor names of nomic-embed-text-v1.5."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden, feed_forward, layers = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["num_hidden_layers"]
    config = {
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "activation_function": "swiglu",
        "causal": False,
        "layer_norm_epsilon": 1e-12,
        "max_trained_positions": TOKENS,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "n_embd": hidden,
        "n_head": SIZES["num_attention_heads"],
        "n_inner": feed_forward,
        "n_layer": layers,
        "n_positions": 4 * TOKENS,
        "pad_vocab_size_multiple": 64,
        "parallel_block": False,
        "prenorm": False,
        "qkv_proj_bias": False,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "type_vocab_size": 2,
        "use_rms_norm": False,
        "vocab_size": -(-len(wordpiece_pieces()) // 64) * 64,
    }
    # Only for transformers, whose class reads other keys than the converter.
    config |= {**SIZES, "max_position_embeddings": TOKENS, "rope_theta": 1000.0}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", wordpiece_tokenizer_json())
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer", **SPECIAL})
    write_sentence_transformer(folder, hidden, pooling)

    bert = tiny_weights({**config, "max_position_embeddings": 1}, seed)
    found: dict[str, Float32Array] = {}
    for name in ("embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"):
        found[name] = bert[name]
    for end in ("weight", "bias"):
        found[f"emb_ln.{end}"] = bert[f"embeddings.LayerNorm.{end}"]
    for layer in range(layers):
        source, target = f"encoder.layer.{layer}", f"encoder.layers.{layer}"
        qkv = [bert[f"{source}.attention.self.{part}.weight"] for part in ("query", "key", "value")]
        found[f"{target}.attn.Wqkv.weight"] = np.concatenate(qkv)
        found[f"{target}.attn.out_proj.weight"] = bert[f"{source}.attention.output.dense.weight"]
        found[f"{target}.mlp.fc11.weight"] = bert[f"{source}.intermediate.dense.weight"]
        found[f"{target}.mlp.fc12.weight"] = random_dense(seed + layer + 1, feed_forward, hidden, "x")["x.weight"]
        found[f"{target}.mlp.fc2.weight"] = bert[f"{source}.output.dense.weight"]
        for end in ("weight", "bias"):
            found[f"{target}.norm1.{end}"] = bert[f"{source}.attention.output.LayerNorm.{end}"]
            found[f"{target}.norm2.{end}"] = bert[f"{source}.output.LayerNorm.{end}"]
    write_safetensors(folder / "model.safetensors", found)
    return folder
