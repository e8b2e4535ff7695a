"""Forms of LFM2 for vectors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import Float32Array, edit_json, write_json, write_safetensors
from tests.convert.tiny_qwen3_checkpoint import tiny_vocabulary
from tests.convert.zoo.form import Form
from tests.convert.zoo.late_interaction import MARKERS, write_pylate

HIDDEN, HEADS, KEY_VALUE_HEADS, FEED_FORWARD, WINDOW = 64, 4, 2, 128, 3
KINDS = ["conv", "full_attention", "conv", "conv", "full_attention"]
SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def lfm2_tokenizer_json(*, ignores_merges: bool = True) -> dict[str, Any]:
    """Return the content of tokenizer.json: byte-level BPE with Llama 3's pattern, a token before each text."""
    vocabulary, merges = tiny_vocabulary()
    pieces = [*SPECIAL, *vocabulary]
    start = SPECIAL[1]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": piece, **flags} for number, piece in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": start, "type_id": 0}}, text],
            "pair": [],
            "special_tokens": {start: {"id": start, "ids": [1], "tokens": [start]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignores_merges,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [list(merge) for merge in merges],
        },
    }


def make_lfm2_embedder(folder: Path, *, ignores_merges: bool = True) -> Path:
    """Write a checkpoint in the form of LFM2.5-Embedding-350M."""
    tokenizer = lfm2_tokenizer_json(ignores_merges=ignores_merges)
    config = {
        "architectures": ["Lfm2BidirectionalModel"],
        "auto_map": {"AutoModel": "modeling_lfm2_bidirectional.Lfm2BidirectionalModel"},
        "model_type": "lfm2",
        "block_auto_adjust_ff_dim": True,
        "block_dim": HIDDEN,
        "block_ff_dim": 180,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 32,
        "bos_token_id": 1,
        "conv_L_cache": WINDOW,
        "conv_bias": False,
        "eos_token_id": 4,
        "hidden_size": HIDDEN,
        "layer_types": KINDS,
        "max_position_embeddings": 1280,
        "norm_eps": 1e-05,
        "num_attention_heads": HEADS,
        "num_heads": HEADS,
        "num_hidden_layers": len(KINDS),
        "num_key_value_heads": KEY_VALUE_HEADS,
        "pad_token_id": 0,
        "rope_theta": 1000000.0,
        "tie_embedding": True,
        "vocab_size": len(tokenizer["model"]["vocab"]),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"bos": SPECIAL[1], "eos": SPECIAL[4], "pad": SPECIAL[0]}
    own = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{role}_token": piece for role, piece in names.items()}}
    write_json(folder / "tokenizer_config.json", own)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    entries = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", entries)
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": "document: "}})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    write_safetensors(folder / "model.safetensors", dict(_weights(config["vocab_size"])))
    return folder


def _weights(vocabulary: int) -> Iterator[tuple[str, Float32Array]]:
    random = np.random.default_rng(7)
    head = HIDDEN // HEADS

    def norm(size: int) -> Float32Array:
        return (1 + 0.2 * random.standard_normal(size)).astype(np.float32)

    def matrix(outputs: int, inputs: int) -> Float32Array:
        return (1.5 * random.standard_normal((outputs, inputs)) / math.sqrt(inputs)).astype(np.float32)

    yield "embed_tokens.weight", random.standard_normal((vocabulary, HIDDEN)).astype(np.float32)
    for layer, kind in enumerate(KINDS):
        base = f"layers.{layer}"
        yield f"{base}.operator_norm.weight", norm(HIDDEN)
        if kind == "conv":
            yield f"{base}.conv.in_proj.weight", matrix(3 * HIDDEN, HIDDEN)
            yield f"{base}.conv.conv.weight", random.standard_normal((HIDDEN, 1, WINDOW)).astype(np.float32)
            yield f"{base}.conv.out_proj.weight", matrix(HIDDEN, HIDDEN)
        else:
            for part, rows in (("q", HIDDEN), ("k", KEY_VALUE_HEADS * head), ("v", KEY_VALUE_HEADS * head)):
                yield f"{base}.self_attn.{part}_proj.weight", matrix(rows, HIDDEN)
            yield f"{base}.self_attn.q_layernorm.weight", norm(head)
            yield f"{base}.self_attn.k_layernorm.weight", norm(head)
            yield f"{base}.self_attn.out_proj.weight", matrix(HIDDEN, HIDDEN)
        yield f"{base}.ffn_norm.weight", norm(HIDDEN)
        yield f"{base}.feed_forward.w1.weight", matrix(FEED_FORWARD, HIDDEN)
        yield f"{base}.feed_forward.w3.weight", matrix(FEED_FORWARD, HIDDEN)
        yield f"{base}.feed_forward.w2.weight", matrix(HIDDEN, FEED_FORWARD)
    yield "embedding_norm.weight", norm(HIDDEN)


def make_colbert(folder: Path, *, expands: bool = True) -> Path:
    """Write a checkpoint in the form of LFM2.5-ColBERT-350M: vectors of tokens. expands: whether queries are filled."""
    make_lfm2_embedder(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    count = len(content["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    for number, marker in enumerate(MARKERS):
        content["added_tokens"].append({"id": count + number, "content": marker, **flags})
    write_json(file, content)
    edit_json(folder / "config.json", vocab_size=count + len(MARKERS))
    write_safetensors(folder / "model.safetensors", dict(_weights(count + len(MARKERS))))
    return write_pylate(folder, do_query_expansion=expands)


FORMS = (
    Form(
        "lfm2_bidirectional",
        ("LiquidAI/LFM2.5-Embedding-350M",),
        "Lfm2BidirectionalModel",
        make_lfm2_embedder,
        "cls",
        reference="lfm2",
        context=1280,
        pre="lfm2",
    ),
    Form(
        "lfm2_colbert_expanded",
        ("LiquidAI/LFM2.5-ColBERT-350M",),
        "Lfm2BidirectionalModel",
        make_colbert,
        "none",
        refused="queries are expanded by tokens that the others must not attend to",
    ),
    Form(
        "lfm2_colbert",
        ("LiquidAI/LFM2.5-ColBERT-350M with do_query_expansion = false",),
        "Lfm2BidirectionalModel",
        partial(make_colbert, expands=False),
        "none",
        reference="lfm2",
        outputs=("multi",),
        context=1280,
        pre="lfm2",
        most=1e-3,
        least_at_q8_0=0.95,
    ),
)
