"""What a client wants to happen to texts that are too long."""

from __future__ import annotations

import dataclasses

import msgspec

from edgeembed.engine.interface import Limits, Pair, Prompted, Side, Text

_NO_TEXT_IS_LONGER = 2**31


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long the texts of a request may be.

    cut: which side of a longer one is cut off; it is refused when that is none. max_tokens: tokens of the longest text,
    special ones, prompt and query included, where that is less than the model takes. own: max_tokens counts those of the
    text alone, or of a pair's document. asked: the request's field that holds max_tokens, for messages.
    """

    cut: Side = "none"
    max_tokens: int | None = None
    own: bool = False
    asked: str = "max_tokens"

    @property
    def plain(self) -> bool:
        """Whether nothing is cut, and the model alone says how long a text may be."""
        return self.cut == "none" and self.max_tokens is None

    def rule(self, context_tokens: int | None) -> str:
        """Name what becomes of a text in a model that takes so many tokens; two rules that share a name do the same."""
        if self.plain:
            return ""
        if self.own:
            return f"{self.cut} {self.max_tokens} own, {context_tokens}"
        return f"{self.cut} {self.most(context_tokens)}"

    def most(self, context_tokens: int | None) -> int:
        """Give the tokens that are left of a text that is cut, but for `own`; 0 when nobody knows."""
        known = [most for most in (self.max_tokens, context_tokens) if most]
        return min(known, default=0)

    def around(self, text: Text) -> Text:
        """Give the text with its limits, as the engine wants it."""
        if self.plain:
            return text
        # JSON's numbers have no end, those of a message to the worker have.
        limits = Limits(min(self.max_tokens or 0, _NO_TEXT_IS_LONGER), self.cut, self.own)
        match text:
            case str():
                return Prompted("", text, "", limits)
            case Prompted():
                return dataclasses.replace(text, limits=limits)
            case Pair():
                return msgspec.structs.replace(text, limits=limits)


ANY_LENGTH = Lengths()
"""Whatever the model takes; nothing is cut."""
