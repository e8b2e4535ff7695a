"""The text template of an embedder that was trained on conversations: every text is a message, its prompt the system's.

The prompt of a request, or the template's own instruction, stands in another place than before the text. Only the
template's own special tokens become such, never those in a text or a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeembed.engine.reading import Tokens
from edgeembed.engine.template_parts import split_at_special

TEMPLATE_KEY = "edgeembed.text.template"
INSTRUCTION_KEY = "edgeembed.text.instruction"
_INSTRUCTION, _TEXT = "{instruction}", "{text}"


@dataclass(frozen=True)
class TextTemplate:
    """The template in a file's metadata: what is before the instruction, between it and the text, and behind the text."""

    before: str
    between: str
    behind: str
    instruction: str
    """Of texts without a prompt."""

    @classmethod
    def of(cls, metadata: Callable[[str], str | None]) -> TextTemplate | None:
        """Return the template of a file with this metadata; None when it has none. Raises ValueError for a malformed one."""
        template = metadata(TEMPLATE_KEY)
        if template is None:
            return None
        before, _, rest = template.partition(_INSTRUCTION)
        between, _, behind = rest.partition(_TEXT)
        if template != f"{before}{_INSTRUCTION}{between}{_TEXT}{behind}" or _INSTRUCTION in rest or _TEXT in before + behind:
            raise ValueError(f"{TEMPLATE_KEY} must have {_INSTRUCTION} and then {_TEXT}, each once")
        return cls(before, between, behind, metadata(INSTRUCTION_KEY) or "")

    def tokens(self, text: str, prompt: str, tokenize: Callable[[str, bool], Tokens]) -> Tokens:
        """Return the ids of the filled template. tokenize(text, special): tokenises without adding special tokens."""
        # What is between two special tokens is tokenised as one: byte-level BPE may join both sides of a place.
        parts: list[tuple[str, bool]] = []
        for piece, own in ((self.before, True), (prompt or self.instruction, False), (self.between, True), (text, False)):
            parts += split_at_special(piece) if own else [(piece, False)]
        parts += split_at_special(self.behind)
        found: list[Tokens] = []
        plain = ""
        for piece, special in [*parts, ("", True)]:
            if not special:
                plain += piece
                continue
            found += [tokenize(part, kind) for part, kind in ((plain, False), (piece, True)) if part]
            plain = ""
        return np.concatenate(found).astype(np.int32)
