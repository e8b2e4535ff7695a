"""Prompts: the template that a model needs around a text, by input type or instruction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgeembed.engine.interface import Prompted, Text
from edgeembed.errors import RequestError, quoted
from edgeembed.hub.catalogue import Prompts

InputType = Literal["query", "document", "classification", "clustering", "similarity"]
"""What a text is embedded for: to search with, to be found, to be classified, grouped, or compared with texts like it."""

PLAIN = "{text}"


@dataclass(frozen=True)
class Prompt:
    """A template with its instruction."""

    template: str
    instruction: str

    @property
    def identity(self) -> str:
        """A string that is equal for two prompts only if they change every text in the same way."""
        return f"{self.template}\0{self.instruction}"

    def apply(self, text: str) -> str:
        """Return a text with the prompt around it. Braces in the text or the instruction are left alone."""
        if self.template == PLAIN:
            return text
        return self.template.format(text=text, instruction=self.instruction)

    def around(self, texts: Iterable[str]) -> list[Text]:
        """Return texts with the prompt around them, as separate parts, so that an engine can share the common prefix."""
        if self.template == PLAIN:
            return list(texts)
        before, _, behind = self.template.partition(PLAIN)
        before, behind = (part.format(instruction=self.instruction) for part in (before, behind))
        return [Prompted(before, text, behind) for text in texts]


NO_PROMPT = Prompt(PLAIN, "")


def prefixed(prefix: str) -> Prompt:
    """Return the prompt that a client writes itself: a text before each text."""
    return Prompt("{instruction}{text}", prefix)


def choose_prompt(prompts: Prompts | None, input_type: InputType | None, instruction: str | None, model: str) -> Prompt:
    """Return the prompt of a request.

    Without input type and instruction it is the default that the model's makers chose, as in sentence-transformers, or
    else empty, for clients that write prompts themselves. An instruction alone means a query. Raises RequestError if the
    model does not accept an instruction.
    """
    if input_type is None and instruction is None:
        if prompts is None or prompts.default is None:
            return NO_PROMPT
        return Prompt(prompts.default, prompts.instruction or "")
    prompts = prompts or Prompts()
    kind: InputType = input_type or "query"
    template = _template(prompts, kind)
    if "{instruction}" not in template:
        if instruction is not None:
            raise RequestError(
                f"model {quoted(model)} takes no instruction for a {kind}; leave 'instruction' out", param="instruction"
            )
        return Prompt(template, "")
    chosen = instruction if instruction is not None else prompts.instruction
    return Prompt(template, chosen or "")


def _template(prompts: Prompts, kind: InputType) -> str:
    match kind:
        case "query":
            return prompts.query
        case "document":
            return prompts.document
        case "classification":
            own = prompts.classification
        case "clustering":
            own = prompts.clustering
        case "similarity":
            own = prompts.similarity
    # Such texts are compared with each other, so all need the same prompt.
    return own or prompts.document
