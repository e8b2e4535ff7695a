"""Forms of jina-embeddings-v3: its own class with the tasks among the weights, and transformers' class."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import Float32Array, edit_json, write_json, write_safetensors
from tests.convert.tiny_encoders import make_tiny_xlm_roberta
from tests.convert.zoo.adapters import adapter_config, adapter_weights
from tests.convert.zoo.form import Form

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
_CONTEXT, _HIDDEN, _FEED_FORWARD, _LAYERS, _RANK = 8192, 64, 128, 2, 4
_QUERY = "Represent the query for retrieving evidence documents: "


def _base(vocabulary: int, seed: int) -> dict[str, Float32Array]:
    """Return random weights under the names of the makers' code, which are also those of transformers' checkpoint."""
    random = np.random.default_rng(seed)

    def norm(name: str) -> dict[str, Float32Array]:
        return {
            f"{name}.weight": (1 + random.standard_normal(_HIDDEN) * 0.1).astype(np.float32),
            f"{name}.bias": (random.standard_normal(_HIDDEN) * 0.1).astype(np.float32),
        }

    def linear(name: str, outputs: int, inputs: int) -> dict[str, Float32Array]:
        return {
            f"{name}.weight": (random.standard_normal((outputs, inputs)) * 1.5 / np.sqrt(inputs)).astype(np.float32),
            f"{name}.bias": (random.standard_normal(outputs) * 0.1).astype(np.float32),
        }

    found = {
        "embeddings.word_embeddings.weight": random.standard_normal((vocabulary, _HIDDEN)).astype(np.float32),
        "embeddings.token_type_embeddings.weight": random.standard_normal((1, _HIDDEN)).astype(np.float32),
        **norm("emb_ln"),
    }
    for layer in range(_LAYERS):
        base = f"encoder.layers.{layer}"
        found |= linear(f"{base}.mixer.Wqkv", 3 * _HIDDEN, _HIDDEN) | linear(f"{base}.mixer.out_proj", _HIDDEN, _HIDDEN)
        found |= linear(f"{base}.mlp.fc1", _FEED_FORWARD, _HIDDEN) | linear(f"{base}.mlp.fc2", _HIDDEN, _FEED_FORWARD)
        found |= norm(f"{base}.norm1") | norm(f"{base}.norm2")
    return found | linear("pooler.dense", _HIDDEN, _HIDDEN)


def _with_tasks(weights: dict[str, Float32Array], seed: int) -> dict[str, Float32Array]:
    """Return weights with the parametrisations of torch: matrices for each task beside each matrix."""
    random = np.random.default_rng(seed)
    found = {}
    for name, tensor in weights.items():
        if not name.endswith(".weight") or tensor.ndim != 2:
            found[f"roberta.{name}"] = tensor
            continue
        base = f"roberta.{name.removesuffix('.weight')}.parametrizations.weight"
        rows, columns = tensor.shape
        table = "embeddings." in name
        shapes = ((rows, _RANK), (_RANK, columns)) if table else ((_RANK, columns), (rows, _RANK))
        found[f"{base}.original"] = tensor
        for part, shape in zip("AB", shapes, strict=True):
            scale = 1.0 if table else 1.5 / np.sqrt(columns)
            found[f"{base}.0.lora_{part}"] = (random.standard_normal((len(TASKS), *shape)) * scale**0.5).astype(np.float32)
    return found


def make_own(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v3."""
    make_tiny_xlm_roberta(folder, pooling="mean")
    code = "jinaai/xlm-roberta-flash-implementation--"
    config: dict[str, Any] = {
        "_name_or_path": "jinaai/jina-embeddings-v3",
        "architectures": ["XLMRobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "auto_map": {
            "AutoConfig": f"{code}configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": f"{code}modeling_lora.XLMRobertaLoRA",
            "AutoModelForMaskedLM": f"{code}modeling_xlm_roberta.XLMRobertaForMaskedLM",
            "AutoModelForPreTraining": f"{code}modeling_xlm_roberta.XLMRobertaForPreTraining",
        },
        "bos_token_id": 0,
        "classifier_dropout": None,
        "emb_pooler": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": _HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": _FEED_FORWARD,
        "layer_norm_eps": 1e-05,
        "load_trained_adapters": True,
        "lora_adaptations": list(TASKS),
        "lora_alpha": 1,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
        "lora_rank": _RANK,
        "matryoshka_dimensions": [32, 64],
        "max_position_embeddings": _CONTEXT + 2,
        "model_type": "xlm-roberta",
        "num_attention_heads": 4,
        "num_hidden_layers": _LAYERS,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "rotary_emb_base": 20000.0,
        "task_instructions": {
            **dict.fromkeys(TASKS, ""),
            "retrieval.query": _QUERY,
            "retrieval.passage": "Represent the document for retrieval: ",
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.30.2",
        "truncate_dim": None,
        "type_vocab_size": 1,
        "use_cache": False,
        "use_flash_attn": True,
        "vocab_size": _rows(folder),
    }
    write_json(folder / "config.json", config)
    kinds = {"": "custom_st.Transformer"}
    kinds |= {"1_Pooling": "sentence_transformers.models.Pooling", "2_Normalize": "sentence_transformers.models.Normalize"}
    modules = [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in enumerate(kinds.items())]
    write_json(folder / "modules.json", modules)
    write_json(folder / "config_sentence_transformers.json", {"prompts": config["task_instructions"]})
    write_safetensors(folder / "model.safetensors", _with_tasks(_base(config["vocab_size"], 31), 32))
    return folder


def make_of_transformers(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v3-hf, without an adapter."""
    make_tiny_xlm_roberta(folder, pooling="mean")
    config: dict[str, Any] = {
        "architectures": ["JinaEmbeddingsV3Model"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": _HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": _FEED_FORWARD,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": _CONTEXT + 2,
        "model_type": "jina_embeddings_v3",
        "num_attention_heads": 4,
        "num_hidden_layers": _LAYERS,
        "pad_token_id": 1,
        "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": _rows(folder),
    }
    write_json(folder / "config.json", config)
    write_safetensors(folder / "model.safetensors", _base(config["vocab_size"], 33))
    return folder


def make_of_transformers_with_tasks(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v3-hf: an adapter of peft in a folder for each task."""
    make_of_transformers(folder)
    edit_json(
        folder / "config.json",
        lora_adaptations=list(TASKS),
        lora_alpha=1,
        lora_rank=_RANK,
        matryoshka_dimensions=[32, 64],
        task_instructions={**dict.fromkeys(TASKS, ""), "retrieval.query": _QUERY},
    )
    attention = {f"self_attn.{part}_proj": (_HIDDEN, _HIDDEN) for part in "qkvo"}
    layer = attention | {"mlp.fc1": (_FEED_FORWARD, _HIDDEN), "mlp.fc2": (_HIDDEN, _FEED_FORWARD)}
    modules = {f"layers.{number}.{part}": size for number in range(_LAYERS) for part, size in layer.items()}
    targets = ["word_embeddings", "token_type_embeddings", "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]
    random = np.random.default_rng(35)
    for task in TASKS:
        place = folder / re.sub(r"[.-]", "_", task)
        place.mkdir()
        weights = adapter_weights(modules | {"pooler.dense": (_HIDDEN, _HIDDEN)}, 36)
        for table, rows in (("word_embeddings", _rows(folder)), ("token_type_embeddings", 1)):
            base = f"base_model.model.embeddings.{table}.lora_embedding_"
            weights[f"{base}A"] = random.standard_normal((_RANK, rows)).astype(np.float32)
            weights[f"{base}B"] = random.standard_normal((_HIDDEN, _RANK)).astype(np.float32)
        settings = adapter_config("jinaai/jina-embeddings-v3-hf", lora_alpha=1, lora_dropout=0.0, target_modules=targets)
        write_json(place / "adapter_config.json", settings)
        write_safetensors(place / "adapter_model.safetensors", weights)
    return folder


def _rows(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


_APART = "llama.cpp's converter leaves the adapters of the tasks in files of their own"
_MATRICES = ["token_embd", "token_types"]
_MATRICES += [
    f"blk.{layer}.{part}" for layer in range(_LAYERS) for part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
]
FORMS = (
    Form(
        "jina_v3_query",
        ("jinaai/jina-embeddings-v3",),
        "XLMRobertaModel",
        make_own,
        "mean",
        reference="jina_v3",
        options={"adapter": "retrieval.query"},
        context=_CONTEXT,
        differs={f"{name}.weight": _APART for name in _MATRICES},
    ),
    Form(
        "jina_v3_peft",
        ("jinaai/jina-embeddings-v3-hf",),
        "JinaEmbeddingsV3Model",
        make_of_transformers_with_tasks,
        "mean",
        reference="adapters",
        options={"adapter": "retrieval_query"},
        context=_CONTEXT,
    ),
    Form(
        "jina_v3_transformers",
        ("fine-tunes of jinaai/jina-embeddings-v3-hf",),
        "JinaEmbeddingsV3Model",
        make_of_transformers,
        "mean",
        context=_CONTEXT,
    ),
)
