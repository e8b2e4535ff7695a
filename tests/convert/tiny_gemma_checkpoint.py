"""A tiny EmbeddingGemma checkpoint with random weights: sliding windows, two Dense modules, a vocabulary with merges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import write_json
from tests.convert.tiny_qwen3_checkpoint import Float32Array, Maker, write_weights

SPACE = "\u2581"
# <pad>, <eos>, <bos> and <unk> have these ids in Gemma, too; the last pieces are matched inside texts.
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
UNUSED = ["<unused0>", "<unused1>"]
DEFINED = ["\n\n", "\n\n\n", SPACE * 2, SPACE * 3, "<table>", "</table>"]
IMAGE = "<image_soft_token>"
# Merged pieces, in order.
WORDS = [
    f"{SPACE}t", "he", "in", "er", f"{SPACE}the", "ll", "hell", "hello", "ing", f"{SPACE}w", "or", f"{SPACE}wor", "ld",
    f"{SPACE}world", f"{SPACE}q", f"{SPACE}qu", f"{SPACE}quer", f"{SPACE}query", "ва", "ре", "река", "中国", "th", "ri",
    "ver", "river", f"{SPACE}river", "is", "se", "es",
]  # fmt: skip
CHARACTERS = [SPACE, *"abcdefghijklmnopqrstuvwxyzABCDEFGHI.,:!?'|0123456789", *"äöüßéèерквазти中国河川の"]
HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD, FEED_FORWARD, DENSE, WINDOW = 48, 5, 3, 1, 32, 96, 192, 32


def make_gemma_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint folder and return it. Every third layer has full attention, the others a window."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tiny_vocabulary()
    config: dict[str, Any] = {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "_sliding_window_pattern": 3,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "head_dim": HEAD,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "layer_types": ["full_attention" if layer % 3 == 0 else "sliding_attention" for layer in range(1, LAYERS + 1)],
        "max_position_embeddings": 512,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "pad_token_id": 0,
        "query_pre_attn_scalar": HEAD,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": WINDOW,
        "use_bidirectional_attention": True,
        "vocab_size": len(vocabulary),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer_json())
    roles = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", **roles})
    modules = ["", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]
    write_json(
        folder / "modules.json",
        [
            {
                "idx": index,
                "name": str(index),
                "path": path,
                "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}",
            }
            for index, path in enumerate(modules)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True, "include_prompt": True},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {
                "query": "task: search result | query: ",
                "document": "title: none | text: ",
                "Clustering": "task: clustering | query: ",
            },
            "default_prompt_name": None,
        },
    )
    card = f"Output embedding dimension size of {HIDDEN}, with smaller options available (32, 24, or 16) via Matryoshka\n"
    (folder / "README.md").write_text(f"---\nlicense: gemma\n---\n{card}", encoding="utf-8")
    for number, (inputs, outputs) in enumerate([(HIDDEN, DENSE), (DENSE, HIDDEN)], start=2):
        sizes = {"in_features": inputs, "out_features": outputs}
        activation = "torch.nn.modules.linear.Identity"
        write_json(folder / f"{number}_Dense" / "config.json", {**sizes, "bias": False, "activation_function": activation})
        maker: Maker = ("linear.weight", (outputs, inputs), 0.0, 1.0 / math.sqrt(inputs))
        write_weights(folder / f"{number}_Dense" / "model.safetensors", _random(iter([maker]), seed + number), "F32")
    write_weights(folder / "model.safetensors", _random(_plan(len(vocabulary)), seed), "F32")
    return folder


def tiny_vocabulary() -> list[str]:
    """Return the pieces in the order of their ids: special, user-defined, bytes, merged, characters."""
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    return [*SPECIAL, *UNUSED, *DEFINED, *byte_pieces, *WORDS, *CHARACTERS, "\n"]


def tiny_merges() -> list[list[str]]:
    """Return all splits of each piece into two pieces, as in files made from a SentencePiece model."""
    known = {*WORDS, *CHARACTERS, SPACE * 2, SPACE * 3}
    return [
        [piece[:at], piece[at:]]
        for piece in [SPACE * 3, SPACE * 2, *WORDS]
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]


def tokenizer_json(*, image: bool = True) -> dict[str, Any]:
    """Return the content of tokenizer.json, with the components of Gemma's. image: with a token that the model lacks."""
    vocabulary = tiny_vocabulary()
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [(piece, True) for piece in SPECIAL] + [(piece, False) for piece in [*UNUSED, *DEFINED]]
    return {
        "version": "1.0",
        "added_tokens": [
            *({"id": ids[piece], "content": piece, **flags, "special": special} for piece, special in added),
            # Beyond the rows that the model has, as in EmbeddingGemma.
            *([{"id": len(vocabulary), "content": IMAGE, **flags, "special": True}] if image else []),
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<eos>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<bos>", "<eos>")},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": tiny_merges(),
        },
    }


def _random(makers: Iterator[Maker], seed: int) -> Iterator[tuple[str, Float32Array]]:
    for number, (name, shape, mean, deviation) in enumerate(makers):
        values = np.random.default_rng([seed, number]).standard_normal(shape, dtype=np.float32)
        yield name, values * np.float32(deviation) + np.float32(mean)


def _plan(vocab_size: int) -> Iterator[Maker]:
    query, key_value = HEADS * HEAD, KEY_VALUE_HEADS * HEAD

    def matrix(name: str, outputs: int, inputs: int) -> Maker:
        return name, (outputs, inputs), 0.0, 1.5 / math.sqrt(inputs)

    def norm(name: str, size: int) -> Maker:
        # Stored without the 1 that Gemma adds.
        return f"{name}.weight", (size,), 0.0, 0.2

    yield "embed_tokens.weight", (vocab_size, HIDDEN), 0.0, 1.0 / math.sqrt(HIDDEN)
    for layer in range(LAYERS):
        base = f"layers.{layer}"
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield norm(f"{base}.{name}_layernorm", HIDDEN)
        yield matrix(f"{base}.self_attn.q_proj.weight", query, HIDDEN)
        yield matrix(f"{base}.self_attn.k_proj.weight", key_value, HIDDEN)
        yield matrix(f"{base}.self_attn.v_proj.weight", key_value, HIDDEN)
        yield matrix(f"{base}.self_attn.o_proj.weight", HIDDEN, query)
        yield norm(f"{base}.self_attn.q_norm", HEAD)
        yield norm(f"{base}.self_attn.k_norm", HEAD)
        yield matrix(f"{base}.mlp.gate_proj.weight", FEED_FORWARD, HIDDEN)
        yield matrix(f"{base}.mlp.up_proj.weight", FEED_FORWARD, HIDDEN)
        yield matrix(f"{base}.mlp.down_proj.weight", HIDDEN, FEED_FORWARD)
    yield norm("norm", HIDDEN)
