"""Forms of jina-embeddings-v2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import SPECIAL, Float32Array, edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_bert_variants import roberta_tokenizer_json
from tests.convert.tiny_encoders import SIZES, random_dense, wordpiece_tokenizer_json, write_sentence_transformer
from tests.convert.zoo.form import Form

_CONTEXT = 8192
_NAMES = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}


def _auto_map(repository: str) -> dict[str, str]:
    classes = {
        "AutoConfig": "configuration_bert.JinaBertConfig",
        "AutoModel": "modeling_bert.JinaBertModel",
        "AutoModelForMaskedLM": "modeling_bert.JinaBertForMaskedLM",
        "AutoModelForSequenceClassification": "modeling_bert.JinaBertForSequenceClassification",
    }
    return {name: f"jinaai/{repository}--{code}" for name, code in classes.items()}


def _config(vocabulary: int, repository: str, **own: Any) -> dict[str, Any]:
    return {
        "_name_or_path": f"jinaai/{repository}",
        "architectures": ["JinaBertForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "attn_implementation": "torch",
        "auto_map": _auto_map(repository),
        "classifier_dropout": None,
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": _CONTEXT,
        "model_max_length": _CONTEXT,
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocabulary,
        **SIZES,
        **own,
    }


def _weights(config: dict[str, Any], *, for_code: bool, seed: int) -> dict[str, Float32Array]:
    """Return random weights under the names of JinaBertModel in one of its two forms."""
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    random = np.random.default_rng(seed)

    def norm(name: str) -> dict[str, Float32Array]:
        return {
            f"{name}.weight": (1 + random.standard_normal(hidden) * 0.1).astype(np.float32),
            f"{name}.bias": (random.standard_normal(hidden) * 0.1).astype(np.float32),
        }

    found = {}
    for name, tensor in tiny_weights({**config, "max_position_embeddings": 1}, seed).items():
        if (
            ".intermediate." not in name
            and ".output.dense" not in name.replace("attention.output", "")
            and ("position_embeddings" not in name)
        ):
            found[name] = tensor
    joint, down, last = ("up_gated_layer", "down_layer", "") if for_code else ("gated_layers", "wo", "mlp.layernorm")
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}"
        for end in ("weight", "bias"):
            del found[f"{base}.output.LayerNorm.{end}"]
        gate = random_dense(seed + layer + 1, 2 * feed_forward, hidden, f"{base}.mlp.{joint}")
        found[f"{base}.mlp.{joint}.weight"] = gate[f"{base}.mlp.{joint}.weight"]
        found |= random_dense(seed + layer + 50, hidden, feed_forward, f"{base}.mlp.{down}")
        if for_code:
            parts = ("attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2")
            for part in parts:
                found |= norm(f"{base}.{part}")
        else:
            found |= norm(f"{base}.{last}")
    return found


def make_english(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v2-base-en."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece_tokenizer_json()
    config = _config(len(tokenizer["model"]["vocab"]), "jina-bert-implementation")
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    own = {"do_lower_case": True, "model_max_length": _CONTEXT, "tokenizer_class": "BertTokenizer", **SPECIAL}
    write_json(folder / "tokenizer_config.json", own)
    write_sentence_transformer(folder, config["hidden_size"], "mean")
    write_safetensors(folder / "model.safetensors", _weights(config, for_code=False, seed=21))
    return folder


def _make_with_byte_pairs(folder: Path, repository: str, *, for_code: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = roberta_tokenizer_json()
    # Six heads of 16, as many as are no power of two: their slopes are not those of the paper alone.
    config = _config(len(tokenizer["model"]["vocab"]), repository, hidden_size=96, num_attention_heads=6)
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    own = {"add_prefix_space": False, "model_max_length": _CONTEXT, "tokenizer_class": "RobertaTokenizer"}
    write_json(folder / "tokenizer_config.json", own | {f"{role}_token": piece for role, piece in _NAMES.items()})
    write_sentence_transformer(folder, config["hidden_size"], "mean")
    weights = _weights(config, for_code=for_code, seed=22)
    write_safetensors(folder / "model.safetensors", {f"bert.{name}": tensor for name, tensor in weights.items()})
    return folder


def make_code(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v2-base-code."""
    return _make_with_byte_pairs(folder, "jina-bert-v2-qk-post-norm", for_code=True)


def make_german(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v2-base-de."""
    return _make_with_byte_pairs(folder, "jina-bert-implementation", for_code=False)


def make_chinese(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v2-base-zh: byte pairs on characters, split at spaces only."""
    make_german(folder)
    edit_json(folder / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    return folder


_HALVES = "llama.cpp's converter leaves both halves in one matrix, of which its graph takes the wrong one for the gate"
FORMS = (
    Form(
        "jina_v2_en",
        ("jinaai/jina-embeddings-v2-small-en", "jinaai/jina-embeddings-v2-base-en"),
        "JinaBertForMaskedLM",
        make_english,
        "mean",
        reference="jina_bert",
        context=_CONTEXT,
        pre="jina-v2-en",
    ),
    Form(
        "jina_v2_de",
        ("jinaai/jina-embeddings-v2-base-de", "jinaai/jina-embeddings-v2-base-es"),
        "JinaBertForMaskedLM",
        make_german,
        "mean",
        reference="jina_bert",
        context=_CONTEXT,
        pre="jina-v2-de",
    ),
    Form(
        "jina_v2_code",
        ("jinaai/jina-embeddings-v2-base-code",),
        "JinaBertForMaskedLM",
        make_code,
        "mean",
        reference="jina_bert",
        context=_CONTEXT,
        pre="jina-v2-code",
        differs={f"blk.{layer}.ffn_{part}.weight": _HALVES for layer in range(2) for part in ("up", "gate")},
    ),
    Form(
        "jina_v2_zh",
        ("jinaai/jina-embeddings-v2-base-zh",),
        "JinaBertForMaskedLM",
        make_chinese,
        "mean",
        refused="the pre-tokenizer = 'Whitespace' is not supported",
    ),
)
