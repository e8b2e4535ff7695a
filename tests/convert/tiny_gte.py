"""Tiny checkpoints of GTE, the makers' NewModel, with seeded random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import SPECIAL, Float32Array, edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import (
    SIZES,
    TOKENS,
    unigram_tokenizer_json,
    wordpiece_tokenizer_json,
    write_sentence_transformer,
)

_NAMES = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification", "AutoModelForTokenClassification")
_PADDING = 6
"""Rows of the embeddings that no piece has."""


def make_tiny_gte(folder: Path, *, multilingual: bool = False, types: int = 2, seed: int = 0) -> Path:
    """Write an embedder with the keys and tensor names of gte-large-en-v1.5, or of gte-multilingual-base."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = unigram_tokenizer_json() if multilingual else wordpiece_tokenizer_json()
    code = "Alibaba-NLP/new-impl--modeling.New"
    config: dict[str, Any] = {
        "architectures": ["NewModel", "NewForTokenClassification"] if multilingual else ["NewModel"],
        "attention_probs_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
            **{name: f"{code}{name.removeprefix('Auto')}" for name in _NAMES},
        },
        "classifier_dropout": 0.0 if multilingual else None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "max_position_embeddings": TOKENS,
        "model_type": "new",
        "pack_qkv": True,
        "pad_token_id": 1 if multilingual else 0,
        "position_embedding_type": "rope",
        "rope_scaling": {"factor": 8.0 if multilingual else 2.0, "type": "ntk"},
        "rope_theta": 20000 if multilingual else 160000,
        "type_vocab_size": types,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
        "vocab_size": len(tokenizer["model"]["vocab"]) + _PADDING,
        **SIZES,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    own = {f"{role}_token": piece for role, piece in names.items()}
    if multilingual:
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizerFast", **own})
    else:
        write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer", **SPECIAL})
    write_sentence_transformer(folder, SIZES["hidden_size"], "cls")
    weights = gte_weights(config, seed)
    if multilingual:
        weights = {f"new.{name}": tensor for name, tensor in weights.items()}
        weights["classifier.weight"], weights["classifier.bias"] = (np.ones(shape, np.float32) for shape in ((1, 64), 1))
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def make_tiny_arctic(folder: Path, *, seed: int = 0) -> Path:
    """Write an embedder with the keys of snowflake-arctic-embed-m-v2.0, which has a copy of the code under other names."""
    make_tiny_gte(folder, multilingual=True, types=1, seed=seed)
    edit_json(
        folder / "config.json",
        architectures=["GteModel"],
        auto_map={
            "AutoConfig": "configuration_hf_alibaba_nlp_gte.GteConfig",
            "AutoModel": "modeling_hf_alibaba_nlp_gte.GteModel",
        },
        matryoshka_dimensions=[256],
        model_type="gte",
        rope_scaling=None,
        rope_theta=160000,
        unpad_inputs="true",
        use_memory_efficient_attention="true",
    )
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}, "default_prompt_name": None})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_safetensors(folder / "model.safetensors", gte_weights(config, seed))
    return folder


def gte_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Float32Array]:
    """Return random weights under NewModel's names."""
    parts = tiny_weights({**config, "type_vocab_size": max(1, config["type_vocab_size"])}, seed)
    found = {name: tensor for name, tensor in parts.items() if name.startswith("embeddings.")}
    del found["embeddings.position_embeddings.weight"]
    if not config["type_vocab_size"]:
        del found["embeddings.token_type_embeddings.weight"]
    random = np.random.default_rng(seed + 1)
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}"
        for end in ("weight", "bias"):
            found[f"{base}.attention.qkv_proj.{end}"] = np.concatenate(
                [parts[f"{base}.attention.self.{part}.{end}"] for part in ("query", "key", "value")]
            )
            found[f"{base}.attention.o_proj.{end}"] = parts[f"{base}.attention.output.dense.{end}"]
            found[f"{base}.attn_ln.{end}"] = parts[f"{base}.attention.output.LayerNorm.{end}"]
            found[f"{base}.mlp.down_proj.{end}"] = parts[f"{base}.output.dense.{end}"]
            found[f"{base}.mlp_ln.{end}"] = parts[f"{base}.output.LayerNorm.{end}"]
        up = parts[f"{base}.intermediate.dense.weight"]
        gate = (random.standard_normal(up.shape) * up.std()).astype(np.float32)
        found[f"{base}.mlp.up_gate_proj.weight"] = np.concatenate([up, gate])
    return found
