"""What a tokenizer does to a text before cutting it into pieces, where llama.cpp does not do it, or does it wrongly."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import partial

from edgeembed.engine.llama import wordpiece

NORMALIZER_KEY = "edgeembed.tokenizer.normalizer"


def choose_normalizer(metadata: Callable[[str], str | None]) -> Callable[[str], str]:
    """Choose by a file's metadata; `metadata(key)` gives a value as text, or None."""
    if metadata("tokenizer.ggml.model") == "bert":
        lowercase = metadata(wordpiece.LOWERCASE_KEY) != "false"
        strip = metadata(wordpiece.STRIP_ACCENTS_KEY)
        if lowercase if strip is None else strip == "true":
            return partial(wordpiece.strip_accents, lowercase=lowercase)
    # Byte-level BPE in llama.cpp composes nothing, where the tokenizers of Qwen and ModernBERT do (Unicode NFC). Files of
    # other converters do not say so; that it goes with Qwen2's pre-tokenizer is known.
    elif metadata(NORMALIZER_KEY) == "nfc" or metadata("tokenizer.ggml.pre") == "qwen2":
        return partial(unicodedata.normalize, "NFC")
    return str
