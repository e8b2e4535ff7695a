"""Counting tokens before anything is computed, with the model's own tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from edgeembed.engine.interface import Engine, Text, Tokenized
from edgeembed.errors import EngineTimeoutError, TooManyTokensError
from edgeembed.models.pool import ModelPool
from edgeembed.models.prompts import InputType, choose_prompt
from edgeembed.models.registry import ModelRegistry, ServedModel


class UnreadableError(Exception):
    """The text at this place among others cannot be read."""

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


class TokenizeRequest(msgspec.Struct, frozen=True):
    """Texts to tokenise. input_type, instruction: the prompt around them, as in an EmbedRequest.

    special: with the marks that the model puts around a text. written: with the tokens' texts. most_tokens: of all texts
    together, for an answer that holds them; None for any number.
    """

    texts: Sequence[str]
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    special: bool = True
    written: bool = False
    param: str = "input"
    most_tokens: int | None = None


class TokenizeResult(msgspec.Struct, frozen=True):
    """tokens: of each text; context_tokens: the longest text that the model takes."""

    model: ServedModel
    tokens: list[Tokenized]
    context_tokens: int


async def tokenize(
    registry: ModelRegistry, pool: ModelPool, clean: Callable[[str], str], request: TokenizeRequest, seconds: float
) -> TokenizeResult:
    """Tokenise texts as an embedder would read them. seconds: after which the request is given up.

    Raises RequestError for what the client did wrong, EngineError otherwise.
    """
    target = await registry.resolve(request.model, "embed")
    model = target.model
    input_type = request.input_type or target.input_type
    prompt = choose_prompt(model.prompts, input_type, request.instruction, request.model or model.name)
    async with pool.lease(model) as lease:
        engine = lease.engine
        assert engine.info is not None  # it was ready once
        texts = prompt.around([clean(text) for text in request.texts])
        try:
            async with asyncio.timeout(seconds):
                # Ids first: texts of tokens are many times larger, and may be more than anybody takes.
                tokens = await read(engine, texts)
                refuse_too_many(sum(len(text.ids) for text in tokens), request.most_tokens, request.param)
                if request.written:
                    tokens = await read(engine, texts, written=True)
        except UnreadableError as failure:
            raise failure.error from failure
        except TimeoutError:
            raise EngineTimeoutError(f"no answer within {seconds:g} s; send fewer texts at a time") from None
    kept = tokens if request.special else [_without_special(text) for text in tokens]
    return TokenizeResult(model, kept, engine.info.context_tokens)


async def read(engine: Engine, texts: Sequence[Text], *, written: bool = False) -> list[Tokenized]:
    """Give the tokens of texts, all or none: when one cannot be read, or nobody waits, the others give up their places.

    Raises UnreadableError for the first one that cannot be read.
    """
    futures = engine.tokenize(texts, written=written)
    try:
        if futures:
            await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        for index, future in enumerate(futures):
            if future.done() and (error := future.exception()):
                raise UnreadableError(index, error)
        return [future.result() for future in futures]
    finally:
        for future in futures:
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen: what the first one says is enough


def refuse_too_many(tokens: int, most: int | None, param: str) -> None:
    """Raise TooManyTokensError when the texts of a request have more tokens together than they may."""
    if most and tokens > most:
        raise TooManyTokensError(
            f"{param} has {tokens:,} tokens in all; at most {most:,} are taken in one request. Send fewer texts at a time",
            param=param,
        )


def _without_special(text: Tokenized) -> Tokenized:
    kept = ~text.special
    written = text.texts and [piece for piece, keep in zip(text.texts, kept.tolist(), strict=True) if keep]
    return Tokenized(text.ids[kept], text.special[kept], written)
