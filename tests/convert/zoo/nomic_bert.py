"""Forms of nomic-bert, without experts and with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.convert.tiny_bert import Float32Array, write_json, write_safetensors
from tests.convert.tiny_encoders import make_tiny_xlm_roberta
from tests.convert.tiny_rotary_encoders import make_tiny_nomic_bert
from tests.convert.zoo.form import Form
from tests.convert.zoo.modules import write_modules

HIDDEN, FEED_FORWARD, HEADS, LAYERS, EXPERTS = 64, 128, 4, 4, 8
_CODE = "nomic-ai/nomic-bert-2048--"


def make_nomic_moe(folder: Path, *, biased: bool = True, seed: int = 0) -> Path:
    """Write a checkpoint in the form of nomic-embed-text-v2-moe. biased: whether the bias of the experts is not zero."""
    make_tiny_xlm_roberta(folder, pooling="mean")  # for its tokenizer
    pieces = _pieces(folder)
    config = {
        "activation_function": "gelu",
        "architectures": ["NomicBertModel"],
        "attn_pdrop": 0.0,
        "auto_map": {
            "AutoConfig": f"{_CODE}configuration_hf_nomic_bert.NomicBertConfig",
            "AutoModel": f"{_CODE}modeling_hf_nomic_bert.NomicBertModel",
            "AutoModelForMaskedLM": f"{_CODE}modeling_hf_nomic_bert.NomicBertForPreTraining",
        },
        "bos_token_id": 0,
        "causal": False,
        "dense_seq_output": True,
        "eos_token_id": 2,
        "expert_choice_router": False,
        "ffn_div": 1.0,
        "layer_norm_epsilon": 1e-05,
        "max_trained_positions": 2048,
        "mlp_fc1_bias": True,
        "mlp_fc2_bias": True,
        "model_type": "nomic_bert",
        "moe_every_n_layers": 2,
        "moe_impl": "megablocks",
        "moe_normalize_expert_weights": False,
        "moe_top_k": 2,
        "n_embd": HIDDEN,
        "n_head": HEADS,
        "n_inner": FEED_FORWARD,
        "n_layer": LAYERS,
        "n_positions": 2048,
        "num_experts": EXPERTS,
        "num_shared_experts": 0,
        "pad_token_id": 1,
        "pad_vocab_size_multiple": 64,
        "parallel_block": False,
        "prenorm": False,
        "qkv_proj_bias": True,
        "rotary_emb_base": 10000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "type_vocab_size": 1,
        "use_rms_norm": None,
        "vocab_size": -(-pieces // 64) * 64,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    write_modules(folder, HIDDEN)
    write_safetensors(folder / "model.safetensors", _weights(config["vocab_size"], biased=biased, seed=seed))
    return folder


def _pieces(folder: Path) -> int:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return len(content["model"]["vocab"])


def _weights(rows: int, *, biased: bool, seed: int) -> dict[str, Float32Array]:
    random = np.random.default_rng(seed)
    found: dict[str, Float32Array] = {}

    def put(name: str, *shape: int, scale: float = 1.0, around: float = 0.0) -> None:
        found[name] = (around + random.standard_normal(shape) * scale).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int) -> None:
        put(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        put(f"{name}.bias", outputs, scale=0.1)

    def norm(name: str) -> None:
        put(f"{name}.weight", HIDDEN, scale=0.1, around=1.0)
        put(f"{name}.bias", HIDDEN, scale=0.1)

    put("embeddings.word_embeddings.weight", rows, HIDDEN)
    put("embeddings.token_type_embeddings.weight", 1, HIDDEN, scale=0.1)
    norm("emb_ln")
    for layer in range(LAYERS):
        base = f"encoder.layers.{layer}"
        linear(f"{base}.attn.Wqkv", 3 * HIDDEN, HIDDEN)
        linear(f"{base}.attn.out_proj", HIDDEN, HIDDEN)
        norm(f"{base}.norm1")
        if layer % 2:
            put(f"{base}.mlp.router.layer.weight", EXPERTS, HIDDEN, scale=HIDDEN**-0.5)
            put(f"{base}.mlp.experts.mlp.w1", EXPERTS * FEED_FORWARD, HIDDEN, scale=HIDDEN**-0.5)
            put(f"{base}.mlp.experts.mlp.w2", EXPERTS * FEED_FORWARD, HIDDEN, scale=FEED_FORWARD**-0.5)
            put(f"{base}.mlp.experts.bias", HIDDEN, scale=0.3 if biased else 0.0)
        else:
            linear(f"{base}.mlp.fc1", FEED_FORWARD, HIDDEN)
            linear(f"{base}.mlp.fc2", HIDDEN, FEED_FORWARD)
        norm(f"{base}.norm2")
    return found


_MOVED = "theirs drops the bias of the experts, ours moves it here"

FORMS = (
    Form(
        "nomic_bert",
        ("nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1"),
        "NomicBertModel",
        make_tiny_nomic_bert,
        "mean",
    ),
    Form(
        "nomic_moe",
        ("nomic-ai/nomic-embed-text-v2-moe",),
        "NomicBertModel",
        make_nomic_moe,
        "mean",
        reference="nomic_moe",
        differs={
            f"blk.{layer}.{name}": _MOVED
            for layer in range(1, LAYERS, 2)
            for name in ("attn_output_norm.bias", "ffn_gate_inp.weight", "ffn_up_exps.weight")
        },
    ),
)
