"""A tiny MPNet checkpoint with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import Float32Array, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import SIZES, TOKENS, wordpiece_tokenizer_json, write_sentence_transformer

BUCKETS = 32
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_PARTS = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "intermediate.dense",
    "output.dense": "output.dense",
    "output.LayerNorm": "output.LayerNorm",
}


def mpnet_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json, as transformers saves MPNet's: BERT's pieces between others' special ones."""
    content = wordpiece_tokenizer_json()
    pieces = [*_FIRST, *content["model"]["vocab"], "<mask>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    added = [
        {
            "id": ids[piece],
            "special": True,
            "content": piece,
            "single_word": False,
            "lstrip": piece == "<mask>",
            "rstrip": False,
            "normalized": piece == "<unk>",
        }
        for piece in (*_FIRST, "[UNK]", "<mask>")
    ]
    processor = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True}
    return {
        **content,
        "added_tokens": added,
        "post_processor": {**processor, "add_prefix_space": False},
        "model": {**content["model"], "vocab": ids},
    }


def make_tiny_mpnet(folder: Path, *, pooling: str = "mean", masked_lm: bool = True, seed: int = 0) -> Path:
    """Write an MPNet embedder with the keys and tensor names of all-mpnet-base-v2; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = mpnet_tokenizer_json()
    config = {
        "_name_or_path": "microsoft/mpnet-base",
        "architectures": ["MPNetForMaskedLM" if masked_lm else "MPNetModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": TOKENS + 2,
        "model_type": "mpnet",
        "pad_token_id": 1,
        "relative_attention_num_buckets": BUCKETS,
        "vocab_size": len(tokenizer["model"]["vocab"]),
        **SIZES,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "[UNK]", "pad": "<pad>", "mask": "<mask>"}
    special = {f"{role}_token": piece for role, piece in names.items()}
    write_json(
        folder / "tokenizer_config.json",
        {"do_lower_case": True, "strip_accents": None, "tokenizer_class": "MPNetTokenizer", **special},
    )
    write_json(folder / "special_tokens_map.json", special)
    write_sentence_transformer(folder, SIZES["hidden_size"], pooling)
    write_safetensors(
        folder / "model.safetensors",
        {**mpnet_weights(config, seed), "embeddings.position_ids": np.arange(TOKENS + 2, dtype=np.int64)[None]},
    )
    return folder


def mpnet_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Float32Array]:
    """Return random weights under MPNetModel's names. The biases are about as large as the real ones."""
    found = {}
    for name, tensor in tiny_weights({**config, "type_vocab_size": 1}, seed).items():
        if name.startswith("encoder.layer."):
            number, _, part = name.removeprefix("encoder.layer.").partition(".")
            part, _, end = part.rpartition(".")
            found[f"encoder.layer.{number}.{_PARTS[part]}.{end}"] = tensor
        elif not name.startswith("embeddings.token_type_embeddings."):
            found[name] = tensor
    random = np.random.default_rng(seed + 1)
    table = 2 * random.standard_normal((config["relative_attention_num_buckets"], config["num_attention_heads"]))
    found["encoder.relative_attention_bias.weight"] = table.astype(np.float32)
    return found
