"""Forms with adapters of peft: jina-embeddings-v5, which has one for each task, and a fine-tune of a plain model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import Float32Array, write_json, write_safetensors
from tests.convert.tiny_encoders import make_tiny_xlm_roberta
from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint, write_weights
from tests.convert.zoo import eurobert
from tests.convert.zoo.form import Form

TASKS = ("retrieval", "text-matching", "clustering", "classification")
_LAYERS, _RANK = 2, 4


def adapter_config(base: str, **own: Any) -> dict[str, Any]:
    """Return adapter_config.json as peft 0.18 writes it."""
    nothing = (
        "alora_invocation_tokens", "arrow_config", "auto_mapping", "corda_config", "eva_config", "exclude_modules",
        "layer_replication", "layers_pattern", "layers_to_transform", "megatron_config", "modules_to_save", "revision",
        "target_parameters", "trainable_token_indices",
    )  # fmt: skip
    flags = ("ensure_weight_tying", "fan_in_fan_out", "lora_bias", "use_dora", "use_qalora", "use_rslora")
    return {
        **dict.fromkeys(nothing),
        **dict.fromkeys(flags, False),
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "loftq_config": {},
        "lora_alpha": 2 * _RANK,
        "lora_dropout": 0.1,
        "megatron_core": "megatron.core",
        "peft_type": "LORA",
        "peft_version": "0.18.0",
        "qalora_group_size": 16,
        "r": _RANK,
        "rank_pattern": {},
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "FEATURE_EXTRACTION",
        **own,
    }


def adapter_weights(modules: Mapping[str, tuple[int, int]], seed: int, rank: int = _RANK) -> dict[str, Float32Array]:
    """Return random matrices under peft's names. modules: outputs and inputs of linear layers, by name."""
    random = np.random.default_rng(seed)
    found = {}
    for module, (outputs, inputs) in modules.items():
        base = f"base_model.model.{module}"
        found[f"{base}.lora_A.weight"] = (random.standard_normal((rank, inputs)) / np.sqrt(inputs)).astype(np.float32)
        found[f"{base}.lora_B.weight"] = (random.standard_normal((outputs, rank)) / np.sqrt(rank)).astype(np.float32)
    return found


def _write_adapters(folder: Path, tasks: Iterable[str], modules: Mapping[str, tuple[int, int]], base: str) -> None:
    for number, task in enumerate(tasks):
        place = folder / "adapters" / task
        place.mkdir(parents=True)
        write_json(place / "adapter_config.json", adapter_config(base))
        write_safetensors(place / "adapter_model.safetensors", adapter_weights(modules, 100 + number))


def _write_jina(folder: Path, config: dict[str, Any], name: str) -> None:
    """Write what both sizes have: their own code, one module, prompts, a model card."""
    code = "configuration_jina_embeddings_v5.JinaEmbeddingsV5Config", "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model"
    own = {
        "architectures": ["JinaEmbeddingsV5Model"],
        "auto_map": dict(zip(("AutoConfig", "AutoModel"), code, strict=True)),
        "model_type": "jina_embeddings_v5",
        "task_names": list(TASKS),
    }
    write_json(folder / "config.json", config | own)
    module = {"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer", "kwargs": ["task", "truncate_dim"]}
    write_json(folder / "modules.json", [module])
    prompts = {"query": "Query: ", "document": "Document: "}
    settings = {"prompts": prompts, "default_prompt_name": "document", "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
    width = config["hidden_size"]
    table = (
        f"| Feature | Value |\n| --- | --- |\n| Matryoshka Dimensions | 32, {width} |\n| Pooling Strategy | Last-token |\n"
    )
    (folder / "README.md").write_text(f"---\nlicense: cc-by-nc-4.0\n---\n# {name}\n{table}", encoding="utf-8")


def make_nano(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v5-text-nano."""
    folder.mkdir(parents=True, exist_ok=True)
    config = eurobert.config(is_decoder=False, num_key_value_heads=4)
    eurobert.write_tokenizer(folder, adds_begin=False)
    write_weights(folder / "model.safetensors", eurobert.weights(config), "F32")
    sizes = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (64, 64), "mlp.down_proj": (64, 128)}
    modules = {f"layers.{layer}.{part}": size for layer in range(_LAYERS) for part, size in sizes.items()}
    _write_adapters(folder, TASKS, modules, "jinaai/jina-embeddings-v5-text-nano")
    _write_jina(folder, config, "jina-embeddings-v5-text-nano")
    return folder


def make_small(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v5-text-small."""
    make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280), seed=4)
    shutil.rmtree(folder / "1_Pooling")
    sizes = {"self_attn.q_proj": (192, 64), "self_attn.v_proj": (64, 64), "mlp.down_proj": (64, 128)}
    modules = {f"layers.{layer}.{part}": size for layer in range(_LAYERS) for part, size in sizes.items()}
    _write_adapters(folder, TASKS, modules, "jinaai/jina-embeddings-v5-text-small")
    _write_jina(folder, json.loads((folder / "config.json").read_text()), "jina-embeddings-v5-text-small")
    return folder


def make_fine_tune(folder: Path) -> Path:
    """Write a fine-tune by peft beside XLM-RoBERTa: scales by rank, other ranks, embeddings, a module saved as a whole."""
    make_tiny_xlm_roberta(folder, pooling="mean", seed=7)
    place = folder / "adapters" / "legal"
    place.mkdir(parents=True)
    layers = [f"encoder.layer.{layer}" for layer in range(_LAYERS)]
    queries = {f"{layer}.attention.self.query": (64, 64) for layer in layers}
    outputs = {f"{layer}.output.dense": (64, 128) for layer in layers}
    weights = adapter_weights(queries, 201) | adapter_weights(outputs, 202, rank=8)
    words = json.loads((folder / "config.json").read_text())["vocab_size"]
    random = np.random.default_rng(203)
    base = "base_model.model.embeddings.word_embeddings"
    weights[f"{base}.lora_embedding_A"] = random.standard_normal((_RANK, words)).astype(np.float32)
    weights[f"{base}.lora_embedding_B"] = (random.standard_normal((64, _RANK)) * 0.3).astype(np.float32)
    for end, middle in (("weight", 1.0), ("bias", 0.0)):
        name = f"base_model.model.embeddings.LayerNorm.{end}"
        weights[name] = (middle + random.standard_normal(64) * 0.2).astype(np.float32)
    settings = adapter_config(
        "intfloat/multilingual-e5-small",
        use_rslora=True,
        target_modules=["query", "output.dense", "word_embeddings"],
        rank_pattern={r"layer\.\d+\.output\.dense": 8},
        alpha_pattern={r"layer\.1\.attention\.self\.query": 3},
        modules_to_save=["embeddings.LayerNorm"],
    )
    write_json(place / "adapter_config.json", settings)
    write_safetensors(place / "adapter_model.safetensors", weights)
    return folder


FORMS = (
    Form(
        "jina_v5_nano",
        ("jinaai/jina-embeddings-v5-text-nano",),
        "JinaEmbeddingsV5Model",
        make_nano,
        "last",
        reference="adapters",
        options={"adapter": "retrieval"},
        context=8192,
    ),
    Form(
        "jina_v5_small",
        ("jinaai/jina-embeddings-v5-text-small",),
        "JinaEmbeddingsV5Model",
        make_small,
        "last",
        reference="adapters",
        options={"adapter": "text-matching"},
        context=1280,
    ),
    Form(
        "peft_adapter",
        ("fine-tunes with peft",),
        "XLMRobertaModel",
        make_fine_tune,
        "mean",
        reference="adapters",
        options={"adapter": "legal"},
    ),
)
