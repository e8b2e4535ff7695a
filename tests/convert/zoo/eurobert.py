"""Forms of EuroBERT."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.tiny_encoders import write_sentence_transformer
from tests.convert.tiny_qwen3_checkpoint import Float32Array, tiny_vocabulary, write_weights
from tests.convert.tiny_qwen3_checkpoint import tokenizer_json as byte_pairs_json
from tests.convert.zoo.form import Form

HIDDEN = 64
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEGIN, END, MASK = "<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"
ADDED = (BEGIN, END, MASK, "<|parallel_sep|>", "<|reserved_special_token_0|>", "<|pad|>")


def weights(config: Mapping[str, Any], prefix: str = "", seed: int = 11) -> Iterator[tuple[str, Float32Array]]:
    """Yield random tensors under transformers' names."""
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]
    key = config["head_dim"] * config["num_key_value_heads"]
    random = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int) -> tuple[str, Float32Array]:
        return prefix + name, random.standard_normal((rows, columns), dtype=np.float32) * np.float32(
            1.5 / math.sqrt(columns)
        )

    def norm(name: str) -> tuple[str, Float32Array]:
        return prefix + name, 1 + random.standard_normal(hidden, dtype=np.float32) * np.float32(0.1)

    yield prefix + "embed_tokens.weight", random.standard_normal((config["vocab_size"], hidden), dtype=np.float32)
    for layer in range(config["num_hidden_layers"]):
        base = f"layers.{layer}"
        yield norm(f"{base}.input_layernorm.weight")
        yield norm(f"{base}.post_attention_layernorm.weight")
        for part, rows in (("q", hidden), ("k", key), ("v", key), ("o", hidden)):
            yield matrix(f"{base}.self_attn.{part}_proj.weight", rows, hidden)
        yield matrix(f"{base}.mlp.gate_proj.weight", feed_forward, hidden)
        yield matrix(f"{base}.mlp.up_proj.weight", feed_forward, hidden)
        yield matrix(f"{base}.mlp.down_proj.weight", hidden, feed_forward)
    yield norm("norm.weight")


def config(**own: Any) -> dict[str, Any]:
    """Return config.json with the keys of EuroBERT-210m."""
    first = len(tiny_vocabulary()[0])
    code = "configuration_eurobert.EuroBertConfig", "modeling_eurobert.EuroBertModel"
    return {
        "architectures": ["EuroBertModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": dict(zip(("AutoConfig", "AutoModel"), code, strict=True)),
        "bos_token": BEGIN,
        "bos_token_id": first,
        "clf_pooling": "late",
        "eos_token": END,
        "eos_token_id": first + 1,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "mask_token": MASK,
        "mask_token_id": first + 2,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "eurobert",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token": END,
        "pad_token_id": first + 1,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 250000,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_size": first + len(ADDED),
        **own,
    }


def write_tokenizer(folder: Path, *, adds_begin: bool) -> None:
    """Write the tokenizer's files: Llama 3's, with other special tokens."""
    vocabulary, merges = tiny_vocabulary()
    content = byte_pairs_json(vocabulary, merges, adds_end=True)
    ids = {piece: len(vocabulary) + number for number, piece in enumerate(ADDED)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": number, "content": piece, **flags} for piece, number in ids.items()]
    content["normalizer"] = None
    content["model"]["ignore_merges"] = True
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = _PATTERN
    start = [{"SpecialToken": {"id": BEGIN, "type_id": 0}}] if adds_begin else []
    end = {"SpecialToken": {"id": END, "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    content["post_processor"]["processors"][1] = {
        "type": "TemplateProcessing",
        "single": [*start, texts[0], end],
        "pair": [*start, texts[0], end, texts[1], end],
        "special_tokens": {piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in (BEGIN, END)},
    }
    write_json(folder / "tokenizer.json", content)
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": BEGIN,
            "clean_up_tokenization_spaces": True,
            "eos_token": END,
            "mask_token": MASK,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 8192,
            "pad_token": END,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def make_eurobert(folder: Path) -> Path:
    """Write a mean-pooling embedder made of EuroBERT, with the prefix and the head of the masked language model."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(architectures=["EuroBertForMaskedLM"])
    write_json(folder / "config.json", settings)
    write_tokenizer(folder, adds_begin=True)
    write_sentence_transformer(folder, HIDDEN, "mean")
    head = ("lm_head.weight", np.ones((settings["vocab_size"], HIDDEN), dtype=np.float32))
    write_weights(folder / "model.safetensors", iter([*weights(settings, "model."), head]), "F32")
    return folder


def make_merged_nano(folder: Path) -> Path:
    """Write a checkpoint in the form of jina-embeddings-v5-text-nano-retrieval: an adapter already merged, last token."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(num_key_value_heads=4, classifier_pooling="mean")  # llama.cpp's converter refuses the default, "late"
    write_json(folder / "config.json", settings)
    write_tokenizer(folder, adds_begin=False)
    write_sentence_transformer(folder, HIDDEN, "last")
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=True)
    prompts = {"query": "Query: ", "document": "Document: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "document"})
    write_weights(folder / "model.safetensors", weights(settings), "F32")
    return folder


FORMS = (
    Form(
        "eurobert_mean",
        ("EuroBERT/EuroBERT-210m",),
        "EuroBertForMaskedLM",
        make_eurobert,
        "mean",
        pre="llama-bpe",
        context=8192,
    ),
    Form(
        "eurobert_last",
        ("jinaai/jina-embeddings-v5-text-nano-retrieval",),
        "EuroBertModel",
        make_merged_nano,
        "last",
        pre="jina-v5-nano",
        context=8192,
    ),
)
