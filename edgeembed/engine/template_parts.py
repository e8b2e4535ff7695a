"""Parts of a template: special tokens, and the text between two of them.

Such a text is tokenised as one, because byte-level BPE joins a space in the template with the word after it. Where the
makers of a model tokenise parts by themselves, the template has "{cut}".
"""

from __future__ import annotations

import re

CUT = "{cut}"
"""Separates parts of a template that are tokenised by themselves."""

_SPECIAL = re.compile(r"(<\|[^<>|]+\|>|\[[A-Z]+\]|</?s>|<[be]os>|\{cut\})")


def is_special(name: str) -> bool:
    """Return whether a special token of this name becomes one in a template."""
    return _SPECIAL.fullmatch(name) is not None


def split_at_special(template: str) -> list[tuple[str, bool]]:
    """Return the parts of a template, and whether each is a special token, or CUT; empty parts are left out."""
    return [(part, is_special(part)) for part in _SPECIAL.split(template) if part]
