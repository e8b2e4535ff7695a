"""Text normalisation before tokenising, where llama.cpp does it differently from the model's tokenizer, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgeembed.common.normal_forms import normalize
from edgeembed.engine.llama import wordpiece

NORMALIZER_KEY = "edgeembed.tokenizer.normalizer"


def choose_normalizer(metadata: Callable[[str], str | None]) -> Callable[[str], str]:
    """Return the normaliser for a file. metadata: returns a metadata value of the file as text, or None."""
    if metadata("tokenizer.ggml.model") == "bert":
        lowercase = metadata(wordpiece.LOWERCASE_KEY) != "false"
        strip = metadata(wordpiece.STRIP_ACCENTS_KEY)
        if lowercase if strip is None else strip == "true":
            return partial(wordpiece.strip_accents, lowercase=lowercase)
    # The tokenizers of Qwen and ModernBERT compose characters (Unicode NFC); llama.cpp's byte-level BPE does not. Files of
    # other converters have no key for it, but Qwen2's pre-tokenizer implies it.
    elif metadata(NORMALIZER_KEY) == "nfc" or metadata("tokenizer.ggml.pre") == "qwen2":
        return partial(normalize, "NFC")
    return str
