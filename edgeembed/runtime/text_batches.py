"""Many texts for a backend: in batches, several at the same time, and errors that name the text in the caller's list."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.errors import EdgeEmbedError
from edgeembed.inference.number_formats import Dtype, quantised
from edgeembed.inference.requests import EmbedRequest, RerankRequest
from edgeembed.runtime.backends import Backend

T = TypeVar("T")

MOST_CHARACTERS = 2**16
"""Of a batch."""
AT_ONCE = 4
"""Batches that keep an engine busy."""
TEXTS_PER_BATCH = 256
_WIDTH_OF = "edgeembed"
"""A text that is embedded to learn how long vectors are."""
_PLACE = re.compile(r"\w+\[(\d+)\]")

Numbers = npt.NDArray[Any]


class Batch(NamedTuple):
    """Some of the texts. first: the index of the first one among all."""

    first: int
    texts: list[str]


class Batcher:
    """Divides texts into batches of at most `size`, of fewer texts if they are long."""

    def __init__(self, size: int, param: str = "texts") -> None:
        """param: what the caller calls the texts, for error messages. Raises ValueError for a size below 1."""
        if size < 1:
            raise ValueError(f"batch_size is {size}; expected at least 1")
        self._size = size
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
        full = len(self._batch) >= self._size or self._characters >= MOST_CHARACTERS
        return self.rest() if full else None

    def rest(self) -> Batch | None:
        """Return what is left; None if there is nothing."""
        batch = Batch(self._first, self._batch)
        self._first, self._batch, self._characters = self._first + len(self._batch), [], 0
        return batch if batch.texts else None


def batches_of(texts: Iterable[str], size: int, param: str = "texts") -> Iterator[Batch]:
    """Yield the texts in batches; see `Batcher`. No more is read than for the next one."""
    batcher = Batcher(size, param)
    for text in texts:
        if batch := batcher.add(text):
            yield batch
    if batch := batcher.rest():
        yield batch


async def batches_of_async(texts: AsyncIterable[str], size: int) -> AsyncIterator[Batch]:
    """Yield the texts of an asynchronous iterator in batches, as `batches_of` does."""
    batcher = Batcher(size)
    async for text in texts:
        if batch := batcher.add(text):
            yield batch
    if batch := batcher.rest():
        yield batch


async def embed_batch(backend: Backend, request: EmbedRequest, batch: Batch, dtype: Dtype) -> Numbers:
    """Return a row for each text of a batch, in a type. Raises EdgeEmbedError that names the text among all."""
    try:
        rows = await backend.embed(msgspec.structs.replace(request, texts=batch.texts))
    except EdgeEmbedError as error:
        raise _placed(error, "texts", batch.first) from None
    return quantised(rows, dtype)


async def embed_all(backend: Backend, request: EmbedRequest, dtype: Dtype, size: int) -> Numbers:
    """Return a row for each text of a request, in a type, shape (texts, dimensions). Raises EdgeEmbedError."""
    batches = list(batches_of(request.texts, size))
    if not request.texts:
        one = await embed_batch(backend, request, Batch(0, [_WIDTH_OF]), dtype)
        return one[:0]
    found = await _together([embed_batch(backend, request, batch, dtype) for batch in batches])
    rows: Numbers = found[0] if len(found) == 1 else np.concatenate(found)
    return rows


async def embed_one(backend: Backend, request: EmbedRequest, dtype: Dtype) -> Numbers:
    """Return the row of the only text of a request, in a type. Raises EdgeEmbedError."""
    try:
        rows = quantised(await backend.embed(request), dtype)
    except EdgeEmbedError as error:
        raise _placed(error, "texts", None) from None
    row: Numbers = rows[0]
    return row


async def rerank_all(backend: Backend, request: RerankRequest) -> list[float]:
    """Return the score of each document. Raises EdgeEmbedError that names the document."""

    async def one(batch: Batch) -> list[float]:
        try:
            return await backend.rerank(msgspec.structs.replace(request, documents=batch.texts))
        except EdgeEmbedError as error:
            raise _placed(error, "documents", batch.first) from None

    batches = batches_of(request.documents, TEXTS_PER_BATCH, "documents")
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
