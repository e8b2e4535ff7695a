"""The texts for which llama.cpp's quantiser learns what matters (an importance matrix): ours, or the user's."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edgeembed.engine.interface import Pair, Task
from edgeembed.errors import ConversionError

OWN_TEXTS = "importance_texts.txt"
"""Written for this purpose: prose, questions and messages in 30 languages, and program code. None is in the retrieval set of
`--compare`."""
MOST_CHARACTERS = 4_000_000
"""Of all texts: more would take hours, and change the result by nothing that can be measured."""


def read_texts(file: Path | None = None) -> list[str]:
    """Return the texts of a file, one a line, without empty lines; ours by default. Raises ConversionError."""
    try:
        content = (files(__package__) / OWN_TEXTS if file is None else file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{file}: not a file of texts in UTF-8, one a line: {error}") from error
    texts = [line for line in map(str.strip, content.splitlines()) if line]
    if not texts:
        raise ConversionError(f"{file}: no texts; expected one a line")
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise ConversionError(f"{file}: more than {MOST_CHARACTERS:,} characters; a few hundred texts are enough")
    return texts


def as_inputs(texts: list[str], task: Task) -> list[str | Pair]:
    """Return what a model computes: the texts, or for a reranker pairs of each text and the next."""
    if task != "rerank":
        return [*texts]
    return [Pair(*pair) for pair in zip(texts, [*texts[1:], *texts[:1]], strict=True)]
