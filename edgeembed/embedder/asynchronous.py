"""`AsyncEmbedder`, for programs with asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, Unpack, overload

from edgeembed.embedder.base import BaseEmbedder
from edgeembed.embedder.plans import (
    EmbedOptions,
    PromptOptions,
    SparseOptions,
    dense_plan,
    matrix_plan,
    of_batch,
    of_collection,
    of_ranking,
    outputs_plan,
    sparse_plan,
)
from edgeembed.embedder.results import Floats, Numbers, Outputs, Ranked, SparseVector
from edgeembed.engine.interface import Output
from edgeembed.runtime.text_batches import AT_ONCE, Batch, Plan, batches_of, batches_of_async
from edgeembed.runtime.threaded_backend import Work

T = TypeVar("T")

TextIterator: TypeAlias = Iterator[str] | AsyncIterator[str]
AnyTexts: TypeAlias = str | Iterable[str] | AsyncIterator[str]


class AsyncEmbedder(BaseEmbedder):
    """`Embedder` for programs with asyncio.

    >>> async with AsyncEmbedder("all-minilm-l6-v2") as embedder:
    ...     rows = await embedder.embed(["first text", "second text"])
    ...     async for row in embedder.embed(line async for line in lines): ...

    It has a thread of its own, so that any number of event loops may share it. The methods are those of `Embedder`: await
    what they return for a string or a list, and use `async for` on what they return for an iterator.
    """

    @overload
    def embed(self, texts: str | Collection[str], **options: Unpack[EmbedOptions]) -> Coroutine[Any, Any, Numbers]: ...

    @overload
    def embed(self, texts: TextIterator, **options: Unpack[EmbedOptions]) -> AsyncIterator[Numbers]: ...

    def embed(self, texts: AnyTexts, **options: Unpack[EmbedOptions]) -> Any:
        """Return vectors of length 1; see `Embedder.embed`."""
        return self._computed(texts, dense_plan(**options))

    @overload
    def sparse(self, texts: str, **options: Unpack[SparseOptions]) -> Coroutine[Any, Any, SparseVector]: ...  # type: ignore[overload-overlap]

    @overload
    def sparse(
        self, texts: Collection[str], **options: Unpack[SparseOptions]
    ) -> Coroutine[Any, Any, list[SparseVector]]: ...

    @overload
    def sparse(self, texts: TextIterator, **options: Unpack[SparseOptions]) -> AsyncIterator[SparseVector]: ...

    def sparse(self, texts: AnyTexts, **options: Unpack[SparseOptions]) -> Any:
        """Return sparse vectors; see `Embedder.sparse`."""
        return self._computed(texts, sparse_plan(**options))

    @overload
    def multi(self, texts: str, **options: Unpack[PromptOptions]) -> Coroutine[Any, Any, Floats]: ...  # type: ignore[overload-overlap]

    @overload
    def multi(self, texts: Collection[str], **options: Unpack[PromptOptions]) -> Coroutine[Any, Any, list[Floats]]: ...

    @overload
    def multi(self, texts: TextIterator, **options: Unpack[PromptOptions]) -> AsyncIterator[Floats]: ...

    def multi(self, texts: AnyTexts, **options: Unpack[PromptOptions]) -> Any:
        """Return a vector for each token, for late-interaction models; see `Embedder.multi`."""
        return self._computed(texts, matrix_plan("multi", **options))

    @overload
    def tokens(self, texts: str, **options: Unpack[PromptOptions]) -> Coroutine[Any, Any, Floats]: ...  # type: ignore[overload-overlap]

    @overload
    def tokens(self, texts: Collection[str], **options: Unpack[PromptOptions]) -> Coroutine[Any, Any, list[Floats]]: ...

    @overload
    def tokens(self, texts: TextIterator, **options: Unpack[PromptOptions]) -> AsyncIterator[Floats]: ...

    def tokens(self, texts: AnyTexts, **options: Unpack[PromptOptions]) -> Any:
        """Return the hidden state of each token; see `Embedder.tokens`."""
        return self._computed(texts, matrix_plan("tokens", **options))

    @overload
    def outputs(  # type: ignore[overload-overlap]
        self, texts: str, outputs: Iterable[Output], **options: Unpack[PromptOptions]
    ) -> Coroutine[Any, Any, Outputs]: ...

    @overload
    def outputs(
        self, texts: Collection[str], outputs: Iterable[Output], **options: Unpack[PromptOptions]
    ) -> Coroutine[Any, Any, list[Outputs]]: ...

    @overload
    def outputs(
        self, texts: TextIterator, outputs: Iterable[Output], **options: Unpack[PromptOptions]
    ) -> AsyncIterator[Outputs]: ...

    def outputs(self, texts: AnyTexts, outputs: Iterable[Output], **options: Unpack[PromptOptions]) -> Any:
        """Return several outputs of each text from one pass; see `Embedder.outputs`."""
        return self._computed(texts, outputs_plan(outputs, **options))

    async def rerank(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Return the documents with their relevance to the query, best first; see `Embedder.rerank`."""
        return await self._run(of_ranking(query, documents, instruction, top_n))

    def _computed(self, texts: AnyTexts, plan: Plan) -> Any:
        if isinstance(texts, AsyncIterator):
            return self._each(batches_of_async(texts, plan.limits), plan)
        if isinstance(texts, Collection):
            return self._run(of_collection(texts, plan))
        return self._each(_as_async(batches_of(iter(texts), plan.limits)), plan)

    async def _each(self, batches: AsyncIterator[Batch], plan: Plan) -> AsyncIterator[Any]:
        await self._open()
        started: deque[asyncio.Future[Any]] = deque()
        try:
            async for batch in batches:
                started.append(asyncio.wrap_future(self._backend.submit(of_batch(batch, plan))))
                while len(started) >= AT_ONCE or (started and started[0].done()):
                    for item in await started.popleft():
                        yield item
            while started:
                for item in await started.popleft():
                    yield item
        finally:
            for future in started:
                future.cancel()

    async def aclose(self) -> None:
        """End the worker and close the connections."""
        await asyncio.to_thread(self._backend.close)

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


async def _as_async(batches: Iterator[Batch]) -> AsyncIterator[Batch]:
    for batch in batches:
        yield batch
        await asyncio.sleep(0)  # other tasks run, and batches that are ready are yielded
