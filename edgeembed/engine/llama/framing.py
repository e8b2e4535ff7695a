"""A text with its prompt, as tokens: the prompt before the text, or in its place in the model's text template."""

from __future__ import annotations

import numpy as np

from edgeembed.engine.interface import Prompted, Role
from edgeembed.engine.late_interaction import LateInteraction
from edgeembed.engine.llama.token_spans import Spans
from edgeembed.engine.llama.tokenizer import Tokenizer
from edgeembed.engine.reading import Tokens, special_around
from edgeembed.engine.text_template import TextTemplate


class Framing:
    """Tokenises texts with all that the model has around them. Its methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, template: TextTemplate | None, roles: LateInteraction | None = None) -> None:
        """roles: how queries and documents are read, if the model tells them apart."""
        self._tokenizer = tokenizer
        self._template = template
        self._roles = roles

    def tokenize(self, text: str) -> Tokens:
        """Return the ids of a text without a prompt, with what the model adds around it."""
        return self._tokenizer.tokenize(text) if self._template is None else self._message(self._template, text, "")

    def tokenize_prompted(self, prefix: str, text: str, suffix: str, role: Role = "") -> Tokens:
        """Return the ids of a text with its prompt, with what the model adds around them."""
        if self._template is None:
            return self._marked(self._tokenizer.tokenize(prefix + text + suffix), role)
        return self._message(self._template, text + suffix, prefix)

    def around(self, prefix: str, suffix: str, role: Role = "") -> tuple[Tokens, Tokens]:
        """Return the ids before and after each text with this prompt."""
        before, behind = self._around(prefix, suffix)
        return self._marked(before, role), behind

    def _marked(self, tokens: Tokens, role: Role) -> Tokens:
        """Return tokens with the marker of a role behind the first one."""
        if not role or self._roles is None or not len(marker := self._roles.marker(role)):
            return tokens
        return np.concatenate([tokens[:1], marker, tokens[1:]])

    def _around(self, prefix: str, suffix: str) -> tuple[Tokens, Tokens]:
        if self._template is not None:
            return special_around(lambda text: self.tokenize_prompted(prefix, text, suffix))
        begin, end = self._tokenizer.frame
        before, behind = (
            self._tokenizer.tokenize(part) if part else np.concatenate([begin, end]) for part in (prefix, suffix)
        )
        return before[: len(before) - len(end)], behind[len(begin) :]

    def spans(self, text: str | Prompted, tokens: Tokens) -> Spans:
        """Return the part of a text, with its prompt, that each of its tokens stands for; see `token_spans`.

        In a template the prompt is in another place, so that its tokens stand for no part.
        """
        prefix, inner = ("", text) if isinstance(text, str) else (text.prefix, text.text + text.suffix)
        if self._template is None:
            return self._tokenizer.spans(prefix + inner, tokens)
        head, tail = self.around(prefix, "")
        own = slice(len(head), len(tokens) - len(tail))
        found = np.full((len(tokens), 2), -1, dtype=np.int32)
        spans = self._tokenizer.spans(inner, tokens[own])
        found[own] = np.where(spans < 0, spans, spans + len(prefix))
        return found

    def part(self, text: str, special: bool) -> Tokens:
        """Return the ids of a part of a template. special: it is the name of a special token."""
        return self._tokenizer.special(text) if special else self._tokenizer.tokenize(text, frame=False)

    def _message(self, template: TextTemplate, text: str, prompt: str) -> Tokens:
        begin, end = self._tokenizer.frame
        return np.concatenate([begin, template.tokens(text, prompt, self.part), end])
