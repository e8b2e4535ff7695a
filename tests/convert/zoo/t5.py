"""T5 encoders with a Dense module: sentence-t5 and gtr-t5."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import Float32Array, write_json, write_safetensors
from tests.convert.tiny_encoders import unigram_tokenizer_json
from tests.convert.zoo.form import Form
from tests.convert.zoo.modules import write_dense, write_modules
from tests.convert.zoo.spiece import unigram_model

HIDDEN, HEADS, HEAD, FEED_FORWARD, LAYERS = 64, 4, 24, 128, 2
_EXTRA = 10
"""Sentinel tokens, of which T5 has 100."""
_PADDING = 28
"""Rows of the table behind the tokenizer's pieces."""


def t5_tokenizer_json() -> dict[str, Any]:
    """Return the content of tokenizer.json as in sentence-t5: pieces of XLM-RoBERTa's tests, T5's special tokens."""
    content = unigram_tokenizer_json()
    special = ["<pad>", "</s>", "<unk>"]
    pieces = [entry for entry in content["model"]["vocab"] if entry[0] not in (*special, "<s>", "<mask>")]
    extra = [f"<extra_id_{number}>" for number in range(_EXTRA)]
    vocab = [*([piece, 0.0] for piece in special), *pieces, *([piece, 0.0] for piece in reversed(extra))]
    ids = {piece: number for number, (piece, _) in enumerate(vocab)}
    added = [
        {"id": ids[piece], "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for piece in (*special, *extra)
    ]  # fmt: skip
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        **content,
        "added_tokens": sorted(added, key=lambda entry: entry["id"]),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, end],
            "pair": [first, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [ids["</s>"]], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocab},
    }


def make_sentence_t5(
    folder: Path, *, gated: bool = False, architecture: str = "T5EncoderModel", dense: bool = True, seed: int = 0
) -> Path:
    """Write a checkpoint like sentence-t5-base. gated: as in T5 1.1. dense: with the Dense module behind the pooling."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = t5_tokenizer_json()
    config = {
        "architectures": [architecture],
        "model_type": "t5",
        "d_ff": FEED_FORWARD,
        "d_kv": HEAD,
        "d_model": HIDDEN,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "n_positions": 512,
        "num_decoder_layers": LAYERS,
        "num_heads": HEADS,
        "num_layers": LAYERS,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "use_cache": True,
        "vocab_size": len(tokenizer["model"]["vocab"]) + _PADDING,
    }
    if gated:
        config |= {"dense_act_fn": "gelu_new", "is_gated_act": True, "tie_word_embeddings": False}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    (folder / "spiece.model").write_bytes(unigram_model(tokenizer, special=3))
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "T5Tokenizer", "extra_ids": _EXTRA, "model_max_length": 512, **names},
    )
    write_json(folder / "special_tokens_map.json", names)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    write_modules(folder, HIDDEN, ["Dense"] if dense else [])
    write_safetensors(folder / "model.safetensors", _weights(config, gated=gated, seed=seed))
    if dense:
        write_dense(folder / "2_Dense", HIDDEN, HIDDEN, bias=False, activation="torch.nn.modules.linear.Identity")
    return folder


def _weights(config: dict[str, Any], *, gated: bool, seed: int) -> dict[str, Float32Array]:
    random = np.random.default_rng(seed)

    def matrix(outputs: int, inputs: int, scale: float = 1.0) -> Float32Array:
        return (random.standard_normal((outputs, inputs)) * scale / np.sqrt(inputs)).astype(np.float32)

    def norm() -> Float32Array:
        return (1 + random.standard_normal(HIDDEN) * 0.1).astype(np.float32)

    inner = HEADS * HEAD
    found = {"shared.weight": random.standard_normal((config["vocab_size"], HIDDEN)).astype(np.float32)}
    for layer in range(LAYERS):
        attention, network = f"encoder.block.{layer}.layer.0", f"encoder.block.{layer}.layer.1"
        # Not scaled by the length of a head, as T5's attention is not.
        found[f"{attention}.SelfAttention.q.weight"] = matrix(inner, HIDDEN, 0.3)
        found[f"{attention}.SelfAttention.k.weight"] = matrix(inner, HIDDEN)
        found[f"{attention}.SelfAttention.v.weight"] = matrix(inner, HIDDEN)
        found[f"{attention}.SelfAttention.o.weight"] = matrix(HIDDEN, inner)
        if layer == 0:
            bias = random.standard_normal((config["relative_attention_num_buckets"], HEADS)).astype(np.float32)
            found[f"{attention}.SelfAttention.relative_attention_bias.weight"] = bias
        found[f"{attention}.layer_norm.weight"] = norm()
        for part in ("wi_0", "wi_1") if gated else ("wi",):
            found[f"{network}.DenseReluDense.{part}.weight"] = matrix(FEED_FORWARD, HIDDEN)
        found[f"{network}.DenseReluDense.wo.weight"] = matrix(HIDDEN, FEED_FORWARD)
        found[f"{network}.layer_norm.weight"] = norm()
    return found | {"encoder.final_layer_norm.weight": norm()}


_BIAS = {"enc.blk.0.attn_rel_b.weight": "ours stays F32"}

FORMS = (
    Form(
        "sentence_t5",
        ("sentence-transformers/sentence-t5-base", "sentence-transformers/gtr-t5-base"),
        "T5EncoderModel",
        make_sentence_t5,
        "mean",
        reference="sentence_transformers",
        context=512,
        differs=_BIAS,
    ),
    Form(
        "t5_gated",
        ("google/t5-v1_1-base",),
        "T5EncoderModel",
        partial(make_sentence_t5, gated=True, dense=False),
        "mean",
        reference="transformers:T5EncoderModel",
        context=512,
        differs=_BIAS,
    ),
)
