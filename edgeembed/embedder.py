"""Vectors and scores in a Python program: `from edgeembed import Embedder`. docs/python.md shows how.

Texts go to the running daemon, or to an engine of the program's own; no HTTP server is imported.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias, TypedDict, TypeVar, Unpack, get_args, overload

import msgspec
import numpy.typing as npt

from edgeembed.config.resolution import Resolved, resolve
from edgeembed.config.values import field_names
from edgeembed.errors import ConfigError
from edgeembed.inference.number_formats import Dtype
from edgeembed.inference.requests import EmbedRequest, RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.runtime.text_batches import (
    AT_ONCE,
    TEXTS_PER_BATCH,
    Batch,
    batches_of,
    batches_of_async,
    embed_all,
    embed_batch,
    embed_one,
    rerank_all,
)
from edgeembed.runtime.threaded_backend import ThreadedBackend, Work, close_at_exit

__all__ = ["AsyncEmbedder", "EmbedOptions", "Embedder", "Ranked"]

T = TypeVar("T")

Numbers: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and its relevance."""

    index: int
    """Of the document in the list that was given."""
    score: float
    """From 0 to 1; the cosine where the model is an embedder."""
    document: str


class EmbedOptions(TypedDict, total=False):
    """The options of `Embedder.embed`, which describes them."""

    input_type: InputType | None
    instruction: str | None
    prompt: str | None
    dimensions: int | None
    dtype: Dtype
    batch_size: int


class _Base:
    """What both classes share: the settings, and the backend behind them."""

    def __init__(self, model: str | None = None, *, daemon: bool | None = None, **settings: Any) -> None:
        """Read the settings. The model is looked for, and loaded if need be, when it is first used.

        Args:
            model: A name, a GGUF file, or `hf:…`; None for the daemon's default model, or else the configured one.
            daemon: None asks the running daemon, if it has the model, and else loads the model in a worker of this program.
                True requires the daemon, False does without.
            settings: Any of docs/configuration.md, such as `truncate="end"`, `threads=4`, `cache=False`. They override the
                environment and config.toml. Those about computing do not change a running daemon.

        Raises:
            ConfigError: A setting is unknown or has an invalid value.
        """
        self._given = (model, daemon, settings)
        self._backend = ThreadedBackend(_resolved(model, settings), model or None, daemon)
        self._finish = close_at_exit(self, self._backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._given[0] or ''!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process makes its own.
        return _again, (type(self), *self._given)


class Embedder(_Base):
    """Vectors of texts, and scores of documents, from a local model.

    >>> with Embedder("all-minilm-l6-v2") as embedder:
    ...     embedder.embed(["first text", "second text"]).shape
    (2, 384)

    Threads may share one, and it works where an event loop runs, as in a notebook. Without `with`, call `close`, or let the
    program's end do it.
    """

    @overload
    def embed(self, texts: str | Collection[str], **options: Unpack[EmbedOptions]) -> Numbers: ...

    @overload
    def embed(self, texts: Iterator[str], **options: Unpack[EmbedOptions]) -> Iterator[Numbers]: ...

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        input_type: InputType | None = None,
        instruction: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: Dtype = "float32",
        batch_size: int = TEXTS_PER_BATCH,
    ) -> Numbers | Iterator[Numbers]:
        """Return vectors of length 1: of a string, shape (dimensions,); of a list, shape (texts, dimensions).

        Of a generator, or another iterator, return an iterator of vectors, which reads a few batches ahead.

        Args:
            texts: A string, a list (or anything else that has a length), or an iterator of strings.
            input_type: "query" or "document" adds the model's prompt; so do "classification", "clustering", "similarity".
            instruction: The task, for models whose prompt has one.
            prompt: Goes before each text, in place of the model's prompt.
            dimensions: Keep the first numbers of each vector, scaled to length 1 again.
            dtype: "float32", "float16", "int8" or "uint8"; "binary" or "ubinary": signs, eight in a byte.
            batch_size: Texts that are computed together, and read together from an iterator.

        Raises:
            RequestError: A text is empty or too long, or an option does not fit the model.
            EdgeEmbedError: The model cannot be found, loaded or computed.
        """
        plan = _plan(
            input_type=input_type,
            instruction=instruction,
            prompt=prompt,
            dimensions=dimensions,
            dtype=dtype,
            batch_size=batch_size,
        )
        if isinstance(texts, Collection):
            return self._backend.run(_embedding(texts, plan))
        return self._rows(batches_of(texts, plan.batch_size), plan)

    def _rows(self, batches: Iterator[Batch], plan: _Plan) -> Iterator[Numbers]:
        started: deque[Future[Numbers]] = deque()
        try:
            for batch in batches:
                started.append(self._backend.submit(_embedding_batch(batch, plan)))
                while len(started) >= AT_ONCE or (started and started[0].done()):
                    yield from self._backend.result(started.popleft())
            while started:
                yield from self._backend.result(started.popleft())
        finally:
            for future in started:
                future.cancel()

    def rerank(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Return the documents with their relevance to the query, best first.

        A reranker reads query and document together; of an embedder it is the cosine of their vectors. What is too long is
        cut at the end.

        Args:
            instruction: The task, for models whose prompt has one.
            top_n: Return only the best.

        Raises:
            EdgeEmbedError: As `embed`.
        """
        return self._backend.run(_reranking(query, documents, instruction, top_n))

    def close(self) -> None:
        """End the worker and close the connections."""
        self._finish()

    def __enter__(self) -> Self:
        self._backend.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncEmbedder(_Base):
    """The same for programs with asyncio.

    >>> async with AsyncEmbedder("all-minilm-l6-v2") as embedder:
    ...     rows = await embedder.embed(["first text", "second text"])

    It computes in a thread of its own, so that any event loop, and any number of them, may use it.
    """

    @overload
    def embed(self, texts: str | Collection[str], **options: Unpack[EmbedOptions]) -> Awaitable[Numbers]: ...

    @overload
    def embed(
        self, texts: Iterator[str] | AsyncIterator[str], **options: Unpack[EmbedOptions]
    ) -> AsyncIterator[Numbers]: ...

    def embed(
        self, texts: str | Iterable[str] | AsyncIterator[str], **options: Unpack[EmbedOptions]
    ) -> Awaitable[Numbers] | AsyncIterator[Numbers]:
        """Return what `Embedder.embed` does; await it for a string or a list, and iterate over it for an iterator.

        >>> rows = await embedder.embed(["first text", "second text"])
        >>> async for row in embedder.embed(line async for line in lines): ...
        """
        plan = _plan(**options)
        if isinstance(texts, AsyncIterator):
            return self._rows(batches_of_async(texts, plan.batch_size), plan)
        if isinstance(texts, Collection):
            return self._run(_embedding(texts, plan))
        return self._rows(_as_async(batches_of(texts, plan.batch_size)), plan)

    async def _rows(self, batches: AsyncIterator[Batch], plan: _Plan) -> AsyncIterator[Numbers]:
        await self._open()
        started: deque[asyncio.Future[Numbers]] = deque()
        try:
            async for batch in batches:
                started.append(asyncio.wrap_future(self._backend.submit(_embedding_batch(batch, plan))))
                while len(started) >= AT_ONCE or (started and started[0].done()):
                    for row in await started.popleft():
                        yield row
            while started:
                for row in await started.popleft():
                    yield row
        finally:
            for future in started:
                future.cancel()

    async def rerank(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Return what `Embedder.rerank` does."""
        return await self._run(_reranking(query, documents, instruction, top_n))

    async def aclose(self) -> None:
        """End the worker and close the connections."""
        await asyncio.to_thread(self._finish)

    async def _open(self) -> None:
        if not self._backend.is_open:
            await asyncio.to_thread(self._backend.open)

    async def _run(self, work: Work[T]) -> T:
        await self._open()
        return await asyncio.wrap_future(self._backend.submit(work))

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Plan(NamedTuple):
    """How texts are embedded. request: without the texts."""

    request: EmbedRequest
    dtype: Dtype
    batch_size: int


def _plan(
    *,
    input_type: InputType | None = None,
    instruction: str | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    dtype: Dtype = "float32",
    batch_size: int = TEXTS_PER_BATCH,
) -> _Plan:
    """Return the plan for options of `embed`. Raises ValueError for a dtype that there is not."""
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(get_args(Dtype))}")
    request = EmbedRequest(
        (), input_type=input_type, instruction=instruction, prefix=prompt, dimensions=dimensions, param="texts"
    )
    return _Plan(request, dtype, batch_size)


def _embedding(texts: Collection[str], plan: _Plan) -> Work[Numbers]:
    """Return the work of embedding a string, or all of a collection."""
    if isinstance(texts, str):
        one = msgspec.structs.replace(plan.request, texts=[texts])
        return lambda backend: embed_one(backend, one, plan.dtype)
    request = msgspec.structs.replace(plan.request, texts=list(texts))
    return lambda backend: embed_all(backend, request, plan.dtype, plan.batch_size)


def _embedding_batch(batch: Batch, plan: _Plan) -> Work[Numbers]:
    return lambda backend: embed_batch(backend, plan.request, batch, plan.dtype)


def _reranking(query: str, documents: Iterable[str], instruction: str | None, top_n: int | None) -> Work[list[Ranked]]:
    """Return the work of ranking documents. Raises TypeError for a string in place of a list of them."""
    if isinstance(documents, str):
        raise TypeError("documents is a string; expected a list of strings")
    given = list(documents)
    request = RerankRequest(query, given, instruction=instruction, lengths=Lengths("end", query=True))

    async def rank(backend: Any) -> list[Ranked]:
        scores = await rerank_all(backend, request)
        found = [Ranked(index, score, document) for index, (score, document) in enumerate(zip(scores, given, strict=True))]
        return sorted(found, key=lambda ranked: -ranked.score)[:top_n]

    return rank


async def _as_async(batches: Iterator[Batch]) -> AsyncIterator[Batch]:
    for batch in batches:
        yield batch
        await asyncio.sleep(0)


def _resolved(model: str | None, settings: dict[str, Any]) -> Resolved:
    """Return the settings in effect. Raises ConfigError for an unknown one."""
    known = set(field_names()) - {"model"}
    if unknown := [name for name in settings if name not in known]:
        raise ConfigError(f"{unknown[0]} is not a setting; `edgeembed serve --help` lists them")
    return resolve({"model": model or None, **settings})


def _again(kind: type[_Base], model: str | None, daemon: bool | None, settings: dict[str, Any]) -> _Base:
    return kind(model, daemon=daemon, **settings)
