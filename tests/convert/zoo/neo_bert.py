"""NeoBERT, as sentence-transformers saves a fine-tune of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.convert.tiny_bert import SPECIAL, Float32Array, write_json, write_safetensors
from tests.convert.tiny_encoders import wordpiece_pieces, wordpiece_tokenizer_json
from tests.convert.zoo.form import Form
from tests.convert.zoo.modules import write_modules

HIDDEN, INTERMEDIATE, HEADS, LAYERS = 64, 200, 4, 2
FEED_FORWARD = 136
"""Two thirds of INTERMEDIATE, then the next multiple of 8."""


def make_neo_bert(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint with the keys and tensors of chandar-lab/NeoBERT, and CLS pooling."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["NeoBERTLMHead"],
        "auto_map": {
            "AutoConfig": "model.NeoBERTConfig",
            "AutoModel": "model.NeoBERT",
            "AutoModelForMaskedLM": "model.NeoBERTLMHead",
            "AutoModelForSequenceClassification": "model.NeoBERTForSequenceClassification",
        },
        "classifier_init_range": 0.02,
        "decoder_init_range": 0.02,
        "dim_head": HIDDEN // HEADS,
        "embedding_init_range": 0.02,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_length": 4096,
        "model_type": "neobert",
        "norm_eps": 1e-05,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "vocab_size": len(wordpiece_pieces()),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", wordpiece_tokenizer_json())
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer", **SPECIAL})
    write_modules(folder, HIDDEN, pooling="cls")
    write_safetensors(folder / "model.safetensors", _weights(config["vocab_size"], seed))
    return folder


def _weights(vocabulary: int, seed: int) -> dict[str, Float32Array]:
    random = np.random.default_rng(seed)

    def matrix(outputs: int, inputs: int) -> Float32Array:
        return (random.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)

    def norm() -> Float32Array:
        return (1 + random.standard_normal(HIDDEN) * 0.1).astype(np.float32)

    found = {"model.encoder.weight": random.standard_normal((vocabulary, HIDDEN)).astype(np.float32)}
    for layer in range(LAYERS):
        base = f"model.transformer_encoder.{layer}"
        found[f"{base}.qkv.weight"] = matrix(3 * HIDDEN, HIDDEN)
        found[f"{base}.wo.weight"] = matrix(HIDDEN, HIDDEN)
        found[f"{base}.ffn.w12.weight"] = matrix(2 * FEED_FORWARD, HIDDEN)
        found[f"{base}.ffn.w3.weight"] = matrix(HIDDEN, FEED_FORWARD)
        found[f"{base}.attention_norm.weight"] = norm()
        found[f"{base}.ffn_norm.weight"] = norm()
    found["model.layer_norm.weight"] = norm()
    return found | {
        "decoder.weight": matrix(vocabulary, HIDDEN),
        "decoder.bias": np.zeros(vocabulary, dtype=np.float32),
    }


FORMS = (
    Form(
        "neo_bert",
        ("chandar-lab/NeoBERT",),
        "NeoBERTLMHead",
        make_neo_bert,
        "cls",
        reference="neo_bert",
        pre="bert-bge",
        differs={
            f"blk.{layer}.attn_qkv.weight": "ours has all queries first, as the graph takes them; theirs goes head by head"
            for layer in range(LAYERS)
        },
    ),
)
