"""Qwen3-VL-Embedding for texts: Qwen3 without the part that sees images, and with its message around every text.

Architecture: Li et al., "Qwen3-VL-Embedding and Qwen3-VL-Reranker", 2026, and Bai et al., "Qwen3-VL Technical Report", 2025.
A token of a text has the same number in all three of its positions (time, height, width), so that their rotation is the
plain one, and nothing is added behind the first layers, as is for images. So the file is one of llama.cpp's `qwen3`.

The makers' own script puts every text into a conversation: its instruction is the system's message.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeembed.engine.text_template import INSTRUCTION_KEY, TEMPLATE_KEY
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.qwen3 import plan_embedder, read_matryoshka
from edgeembed_convert.metadata import Metadata

_TEMPLATE = "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
_INSTRUCTION = "Represent the user's input."
# What the model card's examples ask of queries.
_QUERY = "Retrieve images or text relevant to the user's query."
_LANGUAGE, _VISION = "language_model.", "visual."
_NEWER = "rope_parameters"


class Qwen3Vl:
    """The Qwen3-VL family."""

    architectures = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
    model_types = ("qwen3_vl",)
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a Qwen3-VL checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        texts = replace(checkpoint, config=_text_config(checkpoint))
        hidden = texts.positive_int("hidden_size")
        plan = plan_embedder(texts, checkpoint.pooling(hidden), read_matryoshka(checkpoint, hidden), _place)
        metadata: Metadata = {**plan.metadata, TEMPLATE_KEY: _TEMPLATE, INSTRUCTION_KEY: _INSTRUCTION}
        return replace(plan, metadata=metadata, prompts=_prompts(checkpoint))


def _text_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the settings of the part for texts, as those of a Qwen3 model. Raises ConversionError."""
    found = checkpoint.config.get("text_config")
    if not isinstance(found, dict):
        raise ConversionError(f"{checkpoint.config_file}: text_config = {found!r}; expected an object")
    config = {**found, "architectures": checkpoint.config.get("architectures")}
    for key in ("rope_scaling", _NEWER):
        rotation = config.get(key)
        if isinstance(rotation, dict) and rotation.get("rope_type", rotation.get("type", "default")) in ("default", "mrope"):
            config[key] = {"rope_theta": rotation["rope_theta"]} if key == _NEWER and "rope_theta" in rotation else None
    return config


def _prompts(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the prompts, which become the system's message; a query's may be replaced by that of a request."""
    own = checkpoint.prompts
    query = own.get("query", "{text}").removesuffix("{text}")
    if "{" in query:
        return own
    return {**own, "query": "{instruction}{text}", "instruction": query or _QUERY}


def _place(name: str) -> str | None:
    plain = name.removeprefix("model.")
    return None if plain.startswith(_VISION) else plain.removeprefix(_LANGUAGE).removeprefix("model.")
