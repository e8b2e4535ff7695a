"""The key of a cached row: everything that decides about an embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SCHEMA = b"edgeembed row 2"
"""To be changed when the meaning of a cached row changes, or how it is written."""

_MOST_PROMPTS = 64
_LONGEST_PROMPT = 4096
"""Characters. What a key begins with is not kept for a longer prompt, or query of a reranker: it may be of any length."""


class KeyMaker:
    """Makes keys for one model.

    A key is the SHA-256 over schema, digest of the model file (which fixes the pooling), task, prompt with its instruction,
    the rule by which a text is cleaned and truncated, and the text, each with its length in front, so that different fields
    never yield the same bytes. What is derived from a row (dimensions, normalising, encoding) is not part of it. The text
    cannot be read from the key: nothing on disk shows what was embedded.
    """

    def __init__(self, model_digest: str, task: str) -> None:
        self._model = b"".join(_field(field) for field in (SCHEMA, model_digest.encode(), task.encode()))
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
            whole.update(_field(text.encode()))
            found.append(whole.digest())
        return found


def _field(field: bytes) -> bytes:
    return len(field).to_bytes(8, "little") + field
