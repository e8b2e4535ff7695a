"""BERT's text normalisation, where llama.cpp's differs from it.

llama.cpp (0c1e57098) decomposes only the first letter of a Hangul syllable and strips every combining mark, where BERT
decomposes fully (Unicode NFD) and strips only non-spacing marks (category Mn): Korean loses most of its letters, Hindi its
vowels, and their vectors are wrong. So llama.cpp's own stripping is turned off, and it gets text that is already stripped.
Source of the rules: the tokenizers library, BertNormalizer; the BERT repository, BasicTokenizer.
"""

from __future__ import annotations

import re
import unicodedata

from edgeembed.common.normal_forms import normalize

STRIP_ACCENTS_KEY = "tokenizer.ggml.normalizer.strip_accents"
LOWERCASE_KEY = "tokenizer.ggml.normalizer.lowercase"

_RUN_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def strip_accents(text: str, *, lowercase: bool) -> str:
    """Return a text decomposed and without its non-spacing marks; lowercase: lower-case characters beyond ASCII, too."""
    if text.isascii():
        return text
    # NFD neither changes ASCII nor moves a mark across it.
    return _RUN_BEYOND_ASCII.sub(lambda run: _strip(run.group(), lowercase), text)


def _strip(run: str, lowercase: bool) -> str:
    kept = (letter for letter in normalize("NFD", run) if unicodedata.category(letter) != "Mn")
    # Letter by letter: BERT does not handle the final sigma.
    return "".join(letter.lower() for letter in kept) if lowercase else "".join(kept)
