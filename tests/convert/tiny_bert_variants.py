"""Tiny checkpoints of BERT's variants DistilBERT and RoBERTa, with seeded random weights."""

from __future__ import annotations

from pathlib import Path

from tests.convert.tiny_bert import SPECIAL, Float32Array, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import (
    SIZES,
    TOKENS,
    wordpiece_pieces,
    wordpiece_tokenizer_json,
    write_sentence_transformer,
)

# --- DistilBERT ---------------------------------------------------------------------------------------------------------

_DISTIL_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def make_tiny_distil_bert(folder: Path, *, pooling: str = "mean", seed: int = 0) -> Path:
    """Write a DistilBERT embedder with the keys and tensor names of multi-qa-distilbert-cos-v1; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "activation": "gelu",
        "architectures": ["DistilBertModel"],
        "attention_dropout": 0.1,
        "dim": SIZES["hidden_size"],
        "dropout": 0.1,
        "hidden_dim": SIZES["intermediate_size"],
        "initializer_range": 0.02,
        "max_position_embeddings": TOKENS,
        "model_type": "distilbert",
        "n_heads": SIZES["num_attention_heads"],
        "n_layers": SIZES["num_hidden_layers"],
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "vocab_size": len(wordpiece_pieces()),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", wordpiece_tokenizer_json())
    own = {
        "do_lower_case": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "DistilBertTokenizer",
        **SPECIAL,
    }
    write_json(folder / "tokenizer_config.json", own)
    write_sentence_transformer(folder, SIZES["hidden_size"], pooling)
    write_safetensors(folder / "model.safetensors", distil_bert_weights(seed))
    return folder


def distil_bert_weights(seed: int = 0) -> dict[str, Float32Array]:
    """Return random weights under DistilBertModel's names."""
    sizes = {**SIZES, "max_position_embeddings": TOKENS, "type_vocab_size": 1, "vocab_size": len(wordpiece_pieces())}
    found = {}
    for name, tensor in tiny_weights(sizes, seed).items():
        if name.startswith("encoder.layer."):
            number, _, part = name.removeprefix("encoder.layer.").partition(".")
            part, _, end = part.rpartition(".")
            found[f"transformer.layer.{number}.{_DISTIL_PARTS[part]}.{end}"] = tensor
        elif not name.startswith(("pooler.", "embeddings.token_type_embeddings.")):
            found[name] = tensor
    return found
