"""A tiny BERT checkpoint with random weights, in the format of sentence-transformers, of 100 kB."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "the", "quick", "brown", "fox", "embed", "##ding", "##s",
    "##er", "a", "b", "c", "##a", "##b", "##c", ".", ",", "!", "?", "ca", "##fe", "uber", "Hello", "World", "über", "search",
]  # fmt: skip
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def make_tiny_bert(
    folder: Path,
    *,
    pooling: str = "mean",
    cased: bool = False,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    feed_forward: int = 128,
    context: int = 64,
    seed: int = 0,
    prefix: str = "",
    dtype: str = "F32",
) -> Path:
    """Write a checkpoint folder and return it. `pooling` is a sentence-transformers mode, `prefix` one of tensor names.

    `dtype` is how the weights lie in the file: F32, F16 or BF16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": context,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(PIECES),
    }
    write_json(folder / "config.json", config)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": pooling == "max",
            "pooling_mode_mean_sqrt_len_tokens": pooling == "mean_sqrt_len_tokens",
            "pooling_mode_lasttoken": pooling == "lasttoken",
        },
    )
    write_json(folder / "tokenizer.json", tokenizer_json(cased=cased))
    write_json(folder / "tokenizer_config.json", {"do_lower_case": not cased, "tokenizer_class": "BertTokenizer", **SPECIAL})
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    tensors = tiny_weights(config, seed)
    stored: dict[str, npt.NDArray[Any]] = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    stored["embeddings.position_ids"] = np.arange(context, dtype=np.int64)[None]
    write_safetensors(folder / "model.safetensors", stored, dtype)
    return folder


def tiny_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Float32Array]:
    """Return random weights under BertModel's names, including the pooler; the order of tokens and every layer matter."""
    random = np.random.default_rng(seed)
    hidden, feed_forward = config["hidden_size"], config["intermediate_size"]

    def values(*shape: int, scale: float) -> Float32Array:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    found: dict[str, Float32Array] = {}

    def norm(name: str) -> None:
        found[f"{name}.weight"] = 1 + values(hidden, scale=0.1)
        found[f"{name}.bias"] = values(hidden, scale=0.1)

    def dense(name: str, outputs: int, inputs: int) -> None:
        found[f"{name}.weight"] = values(outputs, inputs, scale=1.5 / math.sqrt(inputs))
        found[f"{name}.bias"] = values(outputs, scale=0.1)

    found["embeddings.word_embeddings.weight"] = values(config["vocab_size"], hidden, scale=1)
    found["embeddings.position_embeddings.weight"] = values(config["max_position_embeddings"], hidden, scale=0.5)
    found["embeddings.token_type_embeddings.weight"] = values(config["type_vocab_size"], hidden, scale=0.5)
    norm("embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            dense(f"{base}.{part}", hidden, hidden)
        norm(f"{base}.attention.output.LayerNorm")
        dense(f"{base}.intermediate.dense", feed_forward, hidden)
        dense(f"{base}.output.dense", hidden, feed_forward)
        norm(f"{base}.output.LayerNorm")
    dense("pooler.dense", hidden, hidden)
    return found


def tokenizer_json(*, cased: bool) -> dict[str, Any]:
    """Return the content of tokenizer.json, as the `tokenizers` package saves BERT's."""
    ids = {piece: number for number, piece in enumerate(PIECES)}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": ids[piece],
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece in SPECIAL.values()
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": not cased,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")},
        },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }


def write_safetensors(file: Path, tensors: Mapping[str, npt.NDArray[Any]], dtype: str = "F32") -> None:
    """Write a safetensors file; float32 arrays are stored as `dtype`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, tensor in tensors.items():
        if tensor.dtype == np.float32:
            kind = dtype
            raw = {
                "F32": lambda t: t,
                "F16": lambda t: t.astype(np.float16),
                "BF16": lambda t: (t.view(np.uint32) >> 16).astype(np.uint16),
            }[dtype](np.ascontiguousarray(tensor))
        else:
            kind, raw = {"int64": "I64", "int8": "I8"}[str(tensor.dtype)], tensor
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + raw.nbytes]}
        data += raw.tobytes()
    write_raw_safetensors(file, header, bytes(data))


def write_raw_safetensors(file: Path, header: Mapping[str, Any], data: bytes) -> None:
    """Write a safetensors file with any header, valid or not."""
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_raw_safetensors(file: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file, and create its folder if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    write_json(file, {key: value for key, value in content.items() if value is not None})
