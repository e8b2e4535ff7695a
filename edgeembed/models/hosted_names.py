"""Names of models that are only served by their owners, for the advice that a client gets who sends one."""

from __future__ import annotations

import re

_OWNERS = {
    "OpenAI": r"text-embedding-(3-.+|ada-.+)",
    "Cohere": r"(embed|rerank)-(english-|multilingual-)?(light-)?v\d.*",
    "Voyage": r"voyage-.+|rerank-(lite-)?\d.*",
    "Jina": r"jina-.+",
    "Google": r"gemini-embedding-.+|text-(multilingual-)?embedding-\d.*",
    "Mistral": r"(mistral|codestral)-embed.*",
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]*")
"""What a shell and config.toml take as it is."""


def owner_of(name: str) -> str | None:
    """Return whose hosted model has a name, in lower case and perhaps with its owner in front; None if nobody's."""
    if not _NAME.fullmatch(name):
        return None
    own = name.rpartition("/")[2]
    return next((owner for owner, names in _OWNERS.items() if re.fullmatch(names, own)), None)
