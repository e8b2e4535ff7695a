"""What makes two embeddings the same: the key of a cached row."""

from __future__ import annotations

import hashlib

SCHEMA = b"edgeembed row 1"
"""Changes whenever a cached row would mean something else than before."""


class KeyMaker:
    """Makes keys for one model.

    A key is the SHA-256 over schema, model file digest, pooling, prompt and text, each with its length in front, so that no
    two different lists of fields run together into the same bytes. What is derived from a row (dimensions, normalising,
    encoding) has no part in it. The digest hides the text: nothing on disk tells what was asked.
    """

    def __init__(self, model_digest: str, pooling: str) -> None:
        self._prefix = hashlib.sha256()
        for field in (SCHEMA, model_digest.encode(), pooling.encode()):
            _add(self._prefix, field)

    def key(self, prompt: str, text: str) -> bytes:
        """Give the key, 32 bytes, of a text under a prompt template (with its instruction filled in)."""
        digest = self._prefix.copy()
        _add(digest, prompt.encode())
        _add(digest, text.encode())
        return digest.digest()


def _add(digest: hashlib._Hash, field: bytes) -> None:
    digest.update(len(field).to_bytes(8, "little"))
    digest.update(field)
