"""What makes two embeddings the same: the key of a cached row."""

from __future__ import annotations

import hashlib

SCHEMA = b"edgeembed row 2"
"""Changes whenever a cached row would mean something else than before, or is written in another way."""

_MOST_PROMPTS = 64


class KeyMaker:
    """Makes keys for one model.

    A key is the SHA-256 over schema, digest of the model file (which fixes the pooling), task, prompt with its instruction,
    the rule by which a text is cleaned and cut, and the text, each with its length in front, so that no two different lists
    of fields run together into the same bytes. What is derived from a row (dimensions, normalising, encoding) has no part in
    it. The digest hides the text: nothing on disk tells what was asked.
    """

    def __init__(self, model_digest: str, task: str) -> None:
        self._model = b"".join(_field(field) for field in (SCHEMA, model_digest.encode(), task.encode()))
        self._beginnings: dict[tuple[str, str], bytes] = {}

    def key(self, prompt: str, text: str, rule: str = "") -> bytes:
        """Give the key, 32 bytes, of a text under a prompt template (with its instruction filled in).

        rule: names what is done to the text before it is computed (cleaning, cutting), if anything is.
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
