"""What a model wants around a text: its prompt, by input type or instruction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgeembed.engine.interface import Prompted, Text
from edgeembed.errors import RequestError
from edgeembed.hub.catalogue import Prompts

InputType = Literal["query", "document"]

PLAIN = "{text}"


@dataclass(frozen=True)
class Prompt:
    """A template with its instruction: everything that surrounds a text."""

    template: str
    instruction: str

    @property
    def identity(self) -> str:
        """A string that two prompts share only if they do the same to every text."""
        return f"{self.template}\0{self.instruction}"

    def apply(self, text: str) -> str:
        """Put the prompt around a text. Braces in the text or the instruction stay what they are."""
        if self.template == PLAIN:
            return text
        return self.template.format(text=text, instruction=self.instruction)

    def around(self, texts: Iterable[str]) -> list[Text]:
        """Put the prompt around texts, in two parts each where an engine may share what stands in front of them all."""
        if self.template == PLAIN:
            return list(texts)
        before, _, behind = self.template.partition(PLAIN)
        before, behind = (part.format(instruction=self.instruction) for part in (before, behind))
        return [Prompted(before, text, behind) for text in texts]


_AS_IT_IS = Prompt(PLAIN, "")


def choose_prompt(prompts: Prompts | None, input_type: InputType | None, instruction: str | None, model: str) -> Prompt:
    """Find the prompt that a request asks for.

    Neither input_type nor instruction: the text as it is, for clients that write prompts themselves. An instruction alone
    means a query. Raises RequestError when the model cannot do what is asked.
    """
    if input_type is None and instruction is None:
        return _AS_IT_IS
    prompts = prompts or Prompts()
    kind: InputType = input_type or "query"
    template = prompts.query if kind == "query" else prompts.document
    if "{instruction}" not in template:
        if instruction is not None:
            raise RequestError(
                f"model {model!r} takes no instruction for a {kind}; leave 'instruction' out", param="instruction"
            )
        return Prompt(template, "")
    chosen = instruction if instruction is not None else prompts.instruction
    return Prompt(template, chosen or "")
