"""Texts to tokens, and back, with the model's own tokenizer, without computing anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from edgeembed.engine.interface import Engine, Prompted, Text, Tokenized, TokenWant
from edgeembed.errors import EngineTimeoutError, RequestError, RequestTooLargeError, TooManyTokensError
from edgeembed.inference import token_ids
from edgeembed.inference.aside import Aside
from edgeembed.inference.cleaning import origins_of
from edgeembed.inference.requests import DetokenizeRequest, TokenizeRequest, TokenizeResult
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import ModelPool
from edgeembed.models.prompts import NO_PROMPT, choose_prompt
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel

MOST_REPEATED = 8 * 2**20
"""Characters of a prompt, or of a reranker's query, times the texts that it is read with."""


class UnreadableError(Exception):
    """The tokenizer cannot read the text at `index`."""

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


async def tokenize(
    registry: ModelRegistry,
    pool: ModelPool,
    clean: Callable[[str], str],
    aside: Aside,
    request: TokenizeRequest,
    seconds: float,
) -> TokenizeResult:
    """Tokenise texts as an embedder would read them. seconds: the request's timeout.

    Raises RequestError for what the client did wrong, EngineError otherwise.
    """
    task = request.task or await registry.task_of(request.model)
    target = await registry.resolve(request.model, task, input_type=request.input_type)
    model = target.model
    input_type = request.input_type or target.input_type
    prompt = choose_prompt(model.prompts, input_type, request.instruction, request.model or model.name)
    refuse_repeated("instruction", request.instruction, len(request.texts))
    characters = sum(map(len, request.texts))
    names = await aside.run(characters, lambda: [clean(text) for text in request.texts])
    async with leased(pool, model, seconds) as engine:
        assert engine.info is not None  # it was ready once
        # A giant text is read only up to what the request may have.
        limited = Lengths(max_tokens=request.most_tokens or None)
        texts = [limited.around(text) for text in prompt.around(names)]
        # Ids first: the texts of tokens are many times larger, and the request may be refused for its size.
        tokens = await read_tokens(engine, texts)
        refuse_too_many(sum(len(text.ids) for text in tokens), request.most_tokens, request.param)
        if request.places:
            read = await read_tokens(engine, texts, "tokens")
            tokens = await aside.run(characters, lambda: list(map(_in_given_text, read, request.texts, names, texts)))
        longest = engine.info.context_tokens
    kept = tokens if request.special else [_without_special(text) for text in tokens]
    return TokenizeResult(model, kept, longest, [_prompted(*pair) for pair in zip(texts, request.texts, strict=True)])


async def detokenize(registry: ModelRegistry, pool: ModelPool, request: DetokenizeRequest, seconds: float) -> list[str]:
    """Return the texts that token ids stand for. seconds: the request's timeout.

    Raises RequestError for what the client did wrong, EngineError otherwise.
    """
    target = await registry.resolve(request.model, await registry.task_of(request.model))

    def place(index: int) -> str:
        return request.param if request.single else f"{request.param}[{index}]"

    token_ids.names_of(request.ids, place)
    texts = token_ids.texts_of(request.ids, NO_PROMPT)
    try:
        async with leased(pool, target.model, seconds) as engine:
            read = await read_tokens(engine, texts, "text_with_special" if request.special else "text")
    except RequestError as error:
        raise RequestError(f"{request.param}: {error.message}", param=request.param) from error
    return [text.text for text in read]


@contextlib.asynccontextmanager
async def leased(pool: ModelPool, model: ServedModel, seconds: float) -> AsyncIterator[Engine]:
    """Hold a model's engine; the errors inside become those of a request."""
    async with pool.lease(model) as lease:
        try:
            async with asyncio.timeout(seconds):
                yield lease.engine
        except UnreadableError as failure:
            raise failure.error from failure
        except TimeoutError:
            raise EngineTimeoutError(f"no answer within {seconds:g} s; send fewer texts at a time") from None


async def read_tokens(engine: Engine, texts: Sequence[Text], want: TokenWant = "ids") -> list[Tokenized]:
    """Return the tokens of texts, all or none: when one cannot be read, or the caller is cancelled, all are cancelled.

    Raises UnreadableError for the first text that cannot be read.
    """
    futures = engine.tokenize(texts, want)
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
                future.exception()  # retrieved: the first error is reported


def _prompted(text: Text, given: str) -> str:
    """Return a text as the client sent it, with the prompt around it."""
    return f"{text.prefix}{given}{text.suffix}" if isinstance(text, Prompted) else given


def _in_given_text(read: Tokenized, given: str, name: str, text: Text) -> Tokenized:
    """Return the tokens with their places in the text that the client sent, which was cleaned before it was read."""
    if read.spans is None or given == name:
        return read
    around = (text.prefix, text.suffix) if isinstance(text, Prompted) else ("", "")
    origins = origins_of(given, name).within(len(around[0]), len(given), len(around[1]))
    return read._replace(spans=origins.of(read.spans))


def refuse_repeated(param: str, text: str | None, times: int) -> None:
    """Raise RequestTooLargeError when a text that the engine gets with each other one is too long for that."""
    if text is not None and len(text) * times > MOST_REPEATED:
        raise RequestTooLargeError(
            f"{param} has {len(text):,} characters and would be read {times:,} times; shorten it", param=param
        )


def refuse_too_many(tokens: int, most: int | None, param: str) -> None:
    """Raise TooManyTokensError when the texts of a request have more than `most` tokens together."""
    if most and tokens > most:
        raise TooManyTokensError(
            f"{param} has at least {tokens:,} tokens in all; a request takes at most {most:,}. Send fewer texts at a time",
            param=param,
        )


def _without_special(text: Tokenized) -> Tokenized:
    kept = ~text.special
    pieces = text.pieces and [piece for piece, keep in zip(text.pieces, kept.tolist(), strict=True) if keep]
    return Tokenized(text.ids[kept], text.special[kept], pieces, None if text.spans is None else text.spans[kept])
