"""Many texts for a backend: in batches, several at the same time, and errors that name the text in the caller's list."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from edgeembed.errors import EdgeEmbedError
from edgeembed.inference.requests import RerankRequest
from edgeembed.runtime.backends import Backend

T = TypeVar("T")

AT_ONCE = 4
"""Batches that keep an engine busy."""
TEXTS_PER_BATCH = 256
CHARACTERS_PER_BATCH = 2**16
_SAMPLE = "edgeembed"
"""A text that is embedded where there are no texts, to learn how long vectors are."""
_PLACE = re.compile(r"\w+\[(\d+)\]")


class BatchLimits(NamedTuple):
    """A batch is full once it has as many texts, or at least as many characters."""

    texts: int = TEXTS_PER_BATCH
    characters: int = CHARACTERS_PER_BATCH


class Plan(Protocol):
    """What to compute of texts. The result is a sequence with an item for each text, such as a matrix."""

    @property
    def limits(self) -> BatchLimits: ...

    async def compute(self, backend: Backend, texts: Sequence[str]) -> Any:
        """Return what is computed of the texts of a batch. Raises EdgeEmbedError."""
        ...

    def join(self, parts: list[Any]) -> Any:
        """Return the results of several batches as one. May empty the list, to free memory."""
        ...


class Batch(NamedTuple):
    """Some of the texts. first: the index of the first one among all."""

    first: int
    texts: list[str]


class Batcher:
    """Divides texts into batches."""

    def __init__(self, limits: BatchLimits, param: str = "texts") -> None:
        """param: what the caller calls the texts, for error messages."""
        self._limits = limits
        self._param = param
        self._first = 0
        self._batch: list[str] = []
        self._characters = 0

    def add(self, text: str) -> Batch | None:
        """Take the next text; return a batch once it is full. Raises TypeError for what is not a string."""
        if not isinstance(text, str):
            place = f"{self._param}[{self._first + len(self._batch)}]"
            raise TypeError(f"{place} is of the type {type(text).__name__}; expected a string")
        self._batch.append(text)
        self._characters += len(text)
        full = len(self._batch) >= self._limits.texts or self._characters >= self._limits.characters
        return self.rest() if full else None

    def rest(self) -> Batch | None:
        """Return what is left; None if there is nothing."""
        batch = Batch(self._first, self._batch)
        self._first, self._batch, self._characters = self._first + len(self._batch), [], 0
        return batch if batch.texts else None


def batches_of(texts: Iterable[str], limits: BatchLimits, param: str = "texts") -> Iterator[Batch]:
    """Yield the texts in batches. Reads no further than the next batch needs."""
    batcher = Batcher(limits, param)
    for text in texts:
        if batch := batcher.add(text):
            yield batch
    if batch := batcher.rest():
        yield batch


async def batches_of_async(texts: AsyncIterable[str], limits: BatchLimits) -> AsyncIterator[Batch]:
    """Yield the texts of an asynchronous iterator in batches, as `batches_of` does."""
    batcher = Batcher(limits)
    async for text in texts:
        if batch := batcher.add(text):
            yield batch
    if batch := batcher.rest():
        yield batch


async def compute_batch(backend: Backend, plan: Plan, batch: Batch) -> Any:
    """Return what a plan makes of a batch. Raises EdgeEmbedError that names the text among all."""
    try:
        return await plan.compute(backend, batch.texts)
    except EdgeEmbedError as error:
        raise _placed(error, "texts", batch.first) from None


async def compute_all(backend: Backend, plan: Plan, texts: Sequence[str]) -> Any:
    """Return what a plan makes of all texts, in their order. Raises EdgeEmbedError."""
    if not texts:
        return (await plan.compute(backend, [_SAMPLE]))[:0]
    batches = list(batches_of(texts, plan.limits))
    parts = await _together([compute_batch(backend, plan, batch) for batch in batches])
    return parts[0] if len(parts) == 1 else plan.join(parts)


async def compute_one(backend: Backend, plan: Plan, text: str) -> Any:
    """Return what a plan makes of a text. Raises EdgeEmbedError."""
    try:
        return (await plan.compute(backend, [text]))[0]
    except EdgeEmbedError as error:
        raise _placed(error, "texts", None) from None


async def rerank_all(backend: Backend, request: RerankRequest) -> list[float]:
    """Return the score of each document. Raises EdgeEmbedError that names the document."""

    async def one(batch: Batch) -> list[float]:
        try:
            return await backend.rerank(msgspec.structs.replace(request, documents=batch.texts))
        except EdgeEmbedError as error:
            raise _placed(error, "documents", batch.first) from None

    batches = batches_of(request.documents, BatchLimits(), "documents")
    return [score for scores in await _together([one(batch) for batch in batches]) for score in scores]


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of coroutines, of which `AT_ONCE` run at the same time; the first failure ends the others."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def run(work: Coroutine[Any, Any, T]) -> T:
        async with limit:
            return await work

    tasks = [asyncio.ensure_future(run(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for work in works:
            work.close()  # one that never began would warn


def _placed(error: EdgeEmbedError, name: str, first: int | None) -> EdgeEmbedError:
    """Return an error about a text of a batch as one about the text of the caller's list.

    name: of the caller's parameter. first: the index of the batch's first text; None where there is only one text.
    """
    if error.param and (place := _PLACE.fullmatch(error.param)):
        param = name if first is None else f"{name}[{first + int(place[1])}]"
        error.message = error.message.replace(error.param, param)
        error.param, error.args = param, (error.message,)
    return error
