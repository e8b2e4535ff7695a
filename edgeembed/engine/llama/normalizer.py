"""Text normalisation before tokenising with a vocabulary that is not WordPiece, where llama.cpp has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from edgeembed.common.normal_forms import normalize

NORMALIZER_KEY = "edgeembed.tokenizer.normalizer"


WHOLE_LINES = {"gemma4", "granite-embed-multi-311m", "sarvam-moe"}
"""Pre-tokenizers of byte-pair vocabularies that join across spaces, as SentencePiece does."""

_OTHER_SPACES = re.compile("[\x0c\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
"""XLM-RoBERTa's tokenizer splits at them, whether or not the file's table of replacements has them."""


def choose_normalizer(metadata: Callable[[str], str | None]) -> Callable[[str], str]:
    """Return the normaliser for a file. metadata: returns a metadata value of the file as text, or None."""
    model, splitter = metadata("tokenizer.ggml.model"), metadata("tokenizer.ggml.pre")
    if model == "llama" or splitter in WHOLE_LINES:
        # To these vocabularies a space and U+2581 are the same, and runs of either are defined tokens.
        return _spaces_of_marks
    if model == "t5":
        return _single_spaces
    return partial(normalize, "NFC") if is_composed(metadata) else str


def is_composed(metadata: Callable[[str], str | None]) -> bool:
    """Return whether a vocabulary without words composes characters (Unicode NFC): those of Qwen and ModernBERT do.

    llama.cpp's byte-level BPE does not. Files of other converters have no key for it, but Qwen2's pre-tokenizer implies it.
    """
    return metadata(NORMALIZER_KEY) == "nfc" or metadata("tokenizer.ggml.pre") == "qwen2"


def _spaces_of_marks(text: str) -> str:
    return text.replace("\u2581", " ")


def _single_spaces(text: str) -> str:
    return _OTHER_SPACES.sub(" ", text)
