"""Text normalisation before tokenising with a vocabulary that is not WordPiece, where llama.cpp has none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgeembed.common.normal_forms import normalize

NORMALIZER_KEY = "edgeembed.tokenizer.normalizer"


def choose_normalizer(metadata: Callable[[str], str | None]) -> Callable[[str], str]:
    """Return the normaliser for a file. metadata: returns a metadata value of the file as text, or None."""
    # The tokenizers of Qwen and ModernBERT compose characters (Unicode NFC); llama.cpp's byte-level BPE does not. Files of
    # other converters have no key for it, but Qwen2's pre-tokenizer implies it.
    if metadata(NORMALIZER_KEY) == "nfc" or metadata("tokenizer.ggml.pre") == "qwen2":
        return partial(normalize, "NFC")
    return str
