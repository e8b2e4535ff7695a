"""The key of a cached row: everything that decides about an embedding."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from edgeembed.engine.text_sizes import may_hold_longer_word

SCHEMA = b"edgeembed row 2"
"""To be changed when the meaning of a cached row changes, or how it is written."""

_MOST_PROMPTS = 64
_LONGEST_PROMPT = 4096
"""Characters. What a key begins with is not kept for a longer prompt, or query of a reranker: it may be of any length."""


LONG_WORD = b"long words are unknown"
"""Part of the key of a text that may hold a word of more than 100 letters: earlier versions cut one into pieces, where
WordPiece reads one unknown word, and their rows must not be found."""
_LONG_WORD = 100
_RUN = re.compile("[^\\s!-/:-@\\[-`{-~\u2000-\u206f\u3000-\u303f\u3400-\u9fff]{34}")
"""Of letters beyond ASCII each may become three, but ideographs are words of their own."""
_INSPECTED = 16_384
"""Longer texts are not looked at: they count as texts with a long word."""


class KeyMaker:
    """Makes keys for one model.

    A key is the SHA-256 over schema, digest of the model file (which fixes the pooling), task, what is mended in the file,
    prompt with its instruction, the rule by which a text is cleaned and truncated, and the text, each with its length in
    front, so that different fields never yield the same bytes. What is derived from a row (dimensions, normalising,
    encoding) is not part of it. The text cannot be read from the key: nothing on disk shows what was embedded.
    """

    def __init__(self, model_digest: str, task: str, mends: Sequence[str] = ()) -> None:
        """mends: how the model's file is read otherwise than it says."""
        fields = (SCHEMA, model_digest.encode(), task.encode(), *(mend.encode() for mend in mends))
        self._model = b"".join(map(_field, fields))
        self._beginnings: dict[tuple[str, str], hashlib._Hash] = {}
        """By prompt and rule, the hash of everything before the text."""

    def key(self, prompt: str, text: str, rule: str = "") -> bytes:
        """Return the key, 32 bytes, of one text; see `keys`."""
        return self.keys(prompt, (text,), rule)[0]

    def keys(self, prompt: str, texts: Iterable[str], rule: str = "") -> list[bytes]:
        """Return the keys, 32 bytes each, of texts with a prompt template (its instruction filled in).

        rule: what is done to a text before it is computed (cleaning, truncating), if anything.
        """
        beginning = self._beginnings.get((prompt, rule))
        if beginning is None:
            beginning = hashlib.sha256(self._model + _field(prompt.encode()) + _field(rule.encode()))
            if len(prompt) <= _LONGEST_PROMPT:
                if len(self._beginnings) >= _MOST_PROMPTS:
                    self._beginnings.clear()
                self._beginnings[prompt, rule] = beginning
        found = []
        for text in texts:
            whole = beginning.copy()
            if may_hold_long_word(text):
                whole.update(_field(LONG_WORD))
            whole.update(_field(text.encode()))
            found.append(whole.digest())
        return found


def may_hold_long_word(text: str) -> bool:
    """Return whether a text may hold a word of more than 100 letters; False only if it holds none."""
    if text.isascii():
        return len(text) > _INSPECTED or may_hold_longer_word(text, _LONG_WORD)
    return len(text) > _INSPECTED or _RUN.search(text) is not None


def _field(field: bytes) -> bytes:
    return len(field).to_bytes(8, "little") + field
