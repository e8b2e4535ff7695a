"""Counting tokens before anything is computed, with the model's own tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from edgeembed.engine.protocol import Text
from edgeembed.errors import EngineTimeoutError, UnsupportedError
from edgeembed.pool import ModelPool
from edgeembed.roster import Roster, ServedModel
from edgeembed.text import InputType, choose_prompt


class Token(NamedTuple):
    """One token of a text.

    id: its place in the model's vocabulary. text: how it is written, empty where nobody asked. special: a mark such as [CLS]
    or <|endoftext|>.
    """

    id: int
    text: str
    special: bool


@runtime_checkable
class Tokenizer(Protocol):
    """An engine that can tokenise without computing."""

    def tokenize(self, texts: Sequence[Text], *, written: bool) -> list[asyncio.Future[list[Token]]]:
        """Give the tokens of each text as the model reads it, in futures; cancelling one frees its place.

        written: fill in the tokens' texts too.
        """
        ...


class TokenizeRequest(msgspec.Struct, frozen=True):
    """Texts to tokenise. input_type, instruction: the prompt around them, as in an EmbedRequest.

    special: with the marks that the model puts around a text. written: with the tokens' texts.
    """

    texts: Sequence[str]
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    special: bool = True
    written: bool = False
    param: str = "input"
    single: bool = False


class TokenizeResult(msgspec.Struct, frozen=True):
    """tokens: of each text; context_tokens: the longest text that the model takes."""

    model: ServedModel
    tokens: list[list[Token]]
    context_tokens: int


async def tokenize(
    roster: Roster, pool: ModelPool, clean: Callable[[str], str], request: TokenizeRequest, seconds: float
) -> TokenizeResult:
    """Tokenise texts as an embedder would read them. seconds: after which the request is given up.

    Raises RequestError for what the client did wrong, EngineError otherwise.
    """
    target = await roster.resolve(request.model, "embed")
    model = target.model
    input_type = request.input_type or target.input_type
    prompt = choose_prompt(model.prompts, input_type, request.instruction, request.model or model.name)
    async with pool.lease(model) as lease:
        engine = lease.engine
        if not isinstance(engine, Tokenizer) or engine.info is None:
            raise UnsupportedError("this version cannot count tokens before it embeds; `usage` of an answer has them")
        texts = prompt.around([clean(text) for text in request.texts])
        try:
            async with asyncio.timeout(seconds):
                tokens = await asyncio.gather(*engine.tokenize(texts, written=request.written))
        except TimeoutError:
            raise EngineTimeoutError(f"no answer within {seconds:g} s; send fewer texts at a time") from None
    kept = tokens if request.special else [[token for token in text if not token.special] for text in tokens]
    return TokenizeResult(model, kept, engine.info.context_tokens)
