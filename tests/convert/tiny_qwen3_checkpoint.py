"""Qwen3 checkpoints with random weights, in the formats of Qwen3-Embedding and Qwen3-Reranker: tiny, or of any shape."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.convert.tiny_bert import write_json
from tests.engine.tiny_qwen3 import byte_pieces

Float32Array = npt.NDArray[np.float32]

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
RERANK_PREFIX = (
    "<|im_start|>system\\nJudge whether the Document meets the requirements based on the Query and the Instruct provided."
)
# Qwen3's added tokens, in the order of their ids, and whether they are marked as special.
ADDED = [
    ("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True), ("<|box_start|>", True), ("<|box_end|>", True), ("<|quad_start|>", True),
    ("<|quad_end|>", True), ("<|vision_start|>", True), ("<|vision_end|>", True), ("<|vision_pad|>", True),
    ("<|image_pad|>", True), ("<|video_pad|>", True), ("<tool_call>", False), ("</tool_call>", False),
    ("<|fim_prefix|>", False), ("<|fim_middle|>", False), ("<|fim_suffix|>", False), ("<|fim_pad|>", False),
    ("<|repo_name|>", False), ("<|file_sep|>", False), ("<tool_response>", False), ("</tool_response>", False),
    ("<think>", False), ("</think>", False),
]  # fmt: skip
# Words in the tiny vocabulary, each merged from the left: "h" + "e", "he" + "l", ...
WORDS = [
    "hello",
    " the",
    " world",
    "yes",
    "no",
    " quick",
    "Query",
    "Document",
    " river",
    "ing",
    " Stadt",
    "ß",
    "中国",
    "река",
    "🎉",
]


@dataclass(frozen=True)
class Qwen3Shape:
    """Sizes under the names of config.json. By default tiny, with heads that together are wider than the model."""

    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 128
    max_position_embeddings: int = 512


def make_qwen3_checkpoint(
    folder: Path,
    *,
    kind: str = "embed",
    shape: Qwen3Shape | None = None,
    tied: bool = True,
    dtype: str = "F32",
    seed: int = 0,
    unused: int = 3,
    vocabulary: Sequence[str] | None = None,
    merges: Sequence[tuple[str, str]] | None = None,
) -> Path:
    """Write a checkpoint folder and return it.

    `kind` is embed (with modules.json and Pooling, names without `model.`), rerank (a text generator's files, as first
    published), logit-score (the same with sentence-transformers' modules), or classify (one score). `unused` ids at the end
    of the vocabulary have no piece.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = shape or Qwen3Shape()
    if vocabulary is None or merges is None:
        vocabulary, merges = tiny_vocabulary()
    vocab_size = len(vocabulary) + len(ADDED) + unused
    first = len(vocabulary)
    architecture = {"embed": "Qwen3ForCausalLM", "classify": "Qwen3ForSequenceClassification"}.get(kind, "Qwen3ForCausalLM")
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": first,
        "eos_token_id": first if kind == "embed" else first + 2,
        "hidden_act": "silu",
        **asdict(shape),
        "max_window_layers": shape.num_hidden_layers,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
    }
    if kind == "classify":
        config |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": first}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer_json(vocabulary, merges, adds_end=kind == "embed"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "added_tokens_decoder": {
                str(first + number): {"content": piece, "special": special, "normalized": False}
                for number, (piece, special) in enumerate(ADDED)
            },
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    if kind != "embed":
        (folder / "README.md").write_text(f"prefix = '{RERANK_PREFIX}'\n", encoding="utf-8")
    if kind == "embed":
        _write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
        write_json(
            folder / "1_Pooling" / "config.json",
            {
                "word_embedding_dimension": shape.hidden_size,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_lasttoken": True,
                "include_prompt": True,
            },
        )
        write_json(
            folder / "config_sentence_transformers.json",
            {
                "prompts": {"query": f"Instruct: {INSTRUCTION}\nQuery:", "document": ""},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
        )
    elif kind == "logit-score":
        _write_modules(folder, [("", "Transformer"), ("1_LogitScore", "LogitScore")])
        write_json(
            folder / "1_LogitScore" / "config.json",
            {"true_token_id": vocabulary.index("yes"), "false_token_id": vocabulary.index("no")},
        )
    prefix = "" if kind == "embed" else "model."
    write_weights(folder / "model.safetensors", weights(config, kind, prefix, seed), dtype)
    return folder


def _write_modules(folder: Path, kinds: Sequence[tuple[str, str]]) -> None:
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds)
        ],
    )


def tiny_vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Return a byte-level vocabulary of all bytes and of WORDS, and its merges."""
    stand_in = byte_pieces()
    # GPT-2's order: the printable bytes first.
    pieces = sorted(stand_in, key=ord)
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        spelled = [stand_in[byte] for byte in word.encode()]
        for end in range(2, len(spelled) + 1):
            pair = ("".join(spelled[: end - 1]), spelled[end - 1])
            if pair not in merges:
                merges.append(pair)
                pieces.append("".join(pair))
    return pieces, merges


def tokenizer_json(vocabulary: Sequence[str], merges: Sequence[tuple[str, str]], *, adds_end: bool) -> dict[str, Any]:
    """Return the content of tokenizer.json as Qwen3-Embedding (`adds_end`) or Qwen3-Reranker has it."""
    first = len(vocabulary)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    end = "<|endoftext|>"
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
            {"SpecialToken": {"id": end, "type_id": 1}},
        ],
        "special_tokens": {end: {"id": end, "ids": [first], "tokens": [end]}},
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": first + number, "content": piece, **flags, "special": special}
            for number, (piece, special) in enumerate(ADDED)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": {"type": "Sequence", "processors": [byte_level, template]} if adds_end else byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: number for number, piece in enumerate(vocabulary)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }


Maker = tuple[str, tuple[int, ...], float, float]
"""Name, shape, mean and deviation of a random tensor."""


def weights(config: Mapping[str, Any], kind: str, prefix: str, seed: int) -> Iterator[tuple[str, Float32Array]]:
    """Yield random tensors under transformers' names, one at a time: each has its own seed."""
    for number, (name, shape, mean, deviation) in enumerate(_plan(config, kind)):
        random = np.random.default_rng([seed, number])
        values = random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        yield ("" if name.startswith(("lm_head", "score")) else prefix) + name, values


def _plan(config: Mapping[str, Any], kind: str) -> Iterator[Maker]:
    hidden, feed_forward, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key_value = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def matrix(name: str, outputs: int, inputs: int) -> Maker:
        return name, (outputs, inputs), 0.0, 1.5 / math.sqrt(inputs)

    def norm(name: str, size: int) -> Maker:
        return name, (size,), 1.0, 0.1

    # Small rows if they are also the head, so that scores are spread over 0 to 1.
    yield "embed_tokens.weight", (config["vocab_size"], hidden), 0.0, 1.0 if kind == "embed" else 1.0 / math.sqrt(hidden)
    for layer in range(config["num_hidden_layers"]):
        base = f"layers.{layer}"
        yield norm(f"{base}.input_layernorm.weight", hidden)
        yield matrix(f"{base}.mlp.down_proj.weight", hidden, feed_forward)
        yield matrix(f"{base}.mlp.gate_proj.weight", feed_forward, hidden)
        yield matrix(f"{base}.mlp.up_proj.weight", feed_forward, hidden)
        yield norm(f"{base}.post_attention_layernorm.weight", hidden)
        yield norm(f"{base}.self_attn.k_norm.weight", head)
        yield matrix(f"{base}.self_attn.k_proj.weight", key_value, hidden)
        yield matrix(f"{base}.self_attn.o_proj.weight", hidden, query)
        yield norm(f"{base}.self_attn.q_norm.weight", head)
        yield matrix(f"{base}.self_attn.q_proj.weight", query, hidden)
        yield matrix(f"{base}.self_attn.v_proj.weight", key_value, hidden)
    yield norm("norm.weight", hidden)
    if kind == "classify":
        yield "score.weight", (1, hidden), 0.0, 1.5 / math.sqrt(hidden)
    elif kind != "embed" and not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden), 0.0, 1.0 / math.sqrt(hidden)


def write_weights(file: Path, tensors: Iterator[tuple[str, Float32Array]], dtype: str) -> None:
    """Write a safetensors file of F32 or BF16 values, one tensor in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = file.with_suffix(".data")
    at = 0
    with data.open("wb") as stream:
        for name, values in tensors:
            raw = values if dtype == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16)
            header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + raw.nbytes]}
            stream.write(raw.tobytes())
            at += raw.nbytes
    text = json.dumps(header).encode()
    with file.open("wb") as stream, data.open("rb") as source:
        stream.write(struct.pack("<Q", len(text)) + text)
        while block := source.read(1 << 24):
            stream.write(block)
    data.unlink()
