"""BERT's text normaliser, as far as llama.cpp's own differs from it.

llama.cpp (0c1e57098) decomposes only the first letter of a Hangul syllable and strips every combining mark, where BERT
decomposes fully (Unicode NFD) and strips non-spacing marks (category Mn) alone: Korean loses most of its letters, Hindi its
vowels, and their vectors come out wrong. So llama.cpp is told not to strip accents, and gets the text stripped already.
Source of the rules: the tokenizers library, BertNormalizer; the BERT repository, BasicTokenizer.
"""

from __future__ import annotations

import re
import unicodedata

STRIP_ACCENTS_KEY = "tokenizer.ggml.normalizer.strip_accents"
LOWERCASE_KEY = "tokenizer.ggml.normalizer.lowercase"

_RUN_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def strip_accents(text: str, *, lowercase: bool) -> str:
    """Decompose a text and drop its non-spacing marks; lower-case what is beyond ASCII, if the model wants that."""
    if text.isascii():
        return text
    # NFD never changes ASCII, nor moves a mark across it.
    return _RUN_BEYOND_ASCII.sub(lambda run: _strip(run.group(), lowercase), text)


def _strip(run: str, lowercase: bool) -> str:
    kept = (letter for letter in unicodedata.normalize("NFD", run) if unicodedata.category(letter) != "Mn")
    # Letter by letter: BERT knows no final sigma.
    return "".join(letter.lower() for letter in kept) if lowercase else "".join(kept)
