"""Forms of Qwen3-VL-Embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny_bert import read_raw_safetensors, write_json, write_raw_safetensors
from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint, tiny_vocabulary, tokenizer_json
from tests.convert.zoo.form import Form

_VISION = {
    "deepstack_visual_indexes": [0],
    "depth": 1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 64,
    "model_type": "qwen3_vl",
    "num_heads": 2,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def make_qwen3_vl_embedder(folder: Path) -> Path:
    """Write a checkpoint in the form of Qwen3-VL-Embedding-2B; of the tower for images it has a tensor only."""
    make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280), seed=3)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    texts = {key: value for key, value in config.items() if key not in ("architectures", "sliding_window")}
    rotation = {"mrope_interleaved": True, "mrope_section": [8, 4, 4], "rope_type": "default"}
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": config["vocab_size"] - 1,
        "text_config": {**texts, "model_type": "qwen3_vl_text", "rope_scaling": rotation, "rope_theta": 5000000},
        "tie_word_embeddings": True,
        "vision_config": _VISION,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer_json(*tiny_vocabulary(), adds_end=False))
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}})
    header, data = read_raw_safetensors(folder / "model.safetensors")
    weights = {f"model.language_model.{name}": entry for name, entry in header.items() if name != "__metadata__"}
    vision = np.ones((32, 3, 2, 4, 4), dtype=np.float32)
    place = [len(data), len(data) + vision.nbytes]
    weights["model.visual.patch_embed.proj.weight"] = {"dtype": "F32", "shape": vision.shape, "data_offsets": place}
    write_raw_safetensors(
        folder / "model.safetensors", {"__metadata__": {"format": "pt"}, **weights}, data + vision.tobytes()
    )
    return folder


FORMS = (
    Form(
        "qwen3_vl_embedder",
        ("Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Embedding-8B"),
        "Qwen3VLForConditionalGeneration",
        make_qwen3_vl_embedder,
        "last",
        reference="qwen3_vl",
        context=1280,
        pre="qwen2",
    ),
)
