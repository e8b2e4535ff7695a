"""The key of a cached row: everything that decides about an embedding."""

from __future__ import annotations

import hashlib

SCHEMA = b"edgeembed row 2"
"""To be changed when the meaning of a cached row changes, or how it is written."""

_MOST_PROMPTS = 64


class KeyMaker:
    """Makes keys for one model.

    A key is the SHA-256 over schema, digest of the model file (which fixes the pooling), task, prompt with its instruction,
    the rule by which a text is cleaned and truncated, and the text, each with its length in front, so that different fields
    never yield the same bytes. What is derived from a row (dimensions, normalising, encoding) is not part of it. The text
    cannot be read from the key: nothing on disk shows what was embedded.
    """

    def __init__(self, model_digest: str, task: str) -> None:
        self._model = b"".join(_field(field) for field in (SCHEMA, model_digest.encode(), task.encode()))
        self._beginnings: dict[tuple[str, str], bytes] = {}

    def key(self, prompt: str, text: str, rule: str = "") -> bytes:
        """Return the key, 32 bytes, of a text with a prompt template (its instruction filled in).

        rule: what is done to the text before it is computed (cleaning, truncating), if anything.
        """
        beginning = self._beginnings.get((prompt, rule))
        if beginning is None:
            if len(self._beginnings) >= _MOST_PROMPTS:
                self._beginnings.clear()
            beginning = self._model + _field(prompt.encode()) + _field(rule.encode())
            self._beginnings[prompt, rule] = beginning
        return hashlib.sha256(beginning + _field(text.encode())).digest()


def _field(field: bytes) -> bytes:
    return len(field).to_bytes(8, "little") + field
