"""What happens to texts that are too long: refused, or cut."""

from __future__ import annotations

import dataclasses

import msgspec

from edgeembed.engine.interface import Limits, Pair, Prompted, Side, Text

_NO_TEXT_IS_LONGER = 2**31


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long the texts of a request may be.

    cut: the side of a longer text that is cut off; with "none" it is refused. max_tokens: limit for a text, including
    special tokens, prompt and query, where it is lower than the model's. own: max_tokens counts the tokens of the text
    itself, or of a pair's document. query: a pair's query may be cut, too; see `engine.interface.Limits`. For messages,
    names of the request's fields: asked holds max_tokens, cutting allows that longer texts are cut.
    """

    cut: Side = "none"
    max_tokens: int | None = None
    own: bool = False
    query: bool = False
    asked: str = "max_tokens"
    cutting: str = "truncate"

    @property
    def plain(self) -> bool:
        """Whether the model's own limit holds, and nothing is cut."""
        return self.cut == "none" and self.max_tokens is None

    def rule(self, context_tokens: int | None) -> str:
        """Return a name for the limit in a model that takes `context_tokens`; equal names mean equal results."""
        if self.plain:
            return ""
        cut = f"{self.cut} query" if self.query else self.cut
        if self.own:
            return f"{cut} {self.max_tokens} own, {context_tokens}"
        return f"{cut} {self.most(context_tokens)}"

    def most(self, context_tokens: int | None) -> int:
        """Return the tokens that are left of a cut text, unless `own`; 0 if unknown."""
        known = [most for most in (self.max_tokens, context_tokens) if most]
        return min(known, default=0)

    def around(self, text: Text) -> Text:
        """Return the text with its limits, as the engine takes it."""
        if self.plain:
            return text
        # A JSON number has no upper bound, an integer in a message to the worker has one.
        limits = Limits(min(self.max_tokens or 0, _NO_TEXT_IS_LONGER), self.cut, self.own, self.query)
        match text:
            case str():
                return Prompted("", text, "", limits)
            case Prompted():
                return dataclasses.replace(text, limits=limits)
            case Pair():
                return msgspec.structs.replace(text, limits=limits)


ANY_LENGTH = Lengths()
"""The model's own limit; nothing is cut."""
