"""`Embedder`, for programs without asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, Unpack, overload

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
from edgeembed.inference.number_formats import Dtype
from edgeembed.models.prompts import InputType
from edgeembed.runtime.text_batches import AT_ONCE, TEXTS_PER_BATCH, Batch, Plan, batches_of


class Embedder(BaseEmbedder):
    """Vectors of texts, and scores of documents, from a local model.

    >>> with Embedder("all-minilm-l6-v2") as embedder:
    ...     embedder.embed(["first text", "second text"]).shape
    (2, 384)

    Threads may share one, and it works where an event loop runs, as in a notebook. Without `with`, call `close`, or leave
    that to the end of the program.

    Methods that take `texts` return one result for a string; one for each text for a list, or any other collection; and an
    iterator of results for a generator, or any other iterator, from which they read a few batches ahead.
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

        Args:
            texts: A string, a list, or an iterator of strings.
            input_type: "query" or "document" adds the model's prompt; so do "classification", "clustering", "similarity".
            instruction: The task, for models whose prompt has one.
            prompt: Goes before each text, in place of the model's prompt.
            dimensions: Keep the first numbers of each vector, scaled to length 1 again.
            dtype: "float32", "float16", "int8" or "uint8"; "binary" or "ubinary": signs, eight in a byte.
            batch_size: How many texts are computed together, and read together from an iterator.

        Raises:
            RequestError: A text is empty or too long, or an option does not fit the model.
            EdgeEmbedError: The model cannot be found, loaded or run.
        """
        plan = dense_plan(
            input_type=input_type,
            instruction=instruction,
            prompt=prompt,
            dimensions=dimensions,
            dtype=dtype,
            batch_size=batch_size,
        )
        found: Numbers | Iterator[Numbers] = self._computed(texts, plan)
        return found

    @overload
    def sparse(self, texts: str, **options: Unpack[SparseOptions]) -> SparseVector: ...  # type: ignore[overload-overlap]

    @overload
    def sparse(self, texts: Collection[str], **options: Unpack[SparseOptions]) -> list[SparseVector]: ...

    @overload
    def sparse(self, texts: Iterator[str], **options: Unpack[SparseOptions]) -> Iterator[SparseVector]: ...

    def sparse(self, texts: str | Iterable[str], **options: Unpack[SparseOptions]) -> Any:
        """Return sparse vectors, for models that have them, such as bge-m3 and SPLADE.

        Args:
            texts: A string, a list, or an iterator of strings.
            options: `top_k`: keep the N heaviest tokens. `threshold`: leave out tokens with less weight. `input_type`,
                `instruction`, `prompt`, `batch_size`: as for `embed`.

        Raises:
            WrongTaskError: The model has none.
        """
        return self._computed(texts, sparse_plan(**options))

    @overload
    def multi(self, texts: str, **options: Unpack[PromptOptions]) -> Floats: ...  # type: ignore[overload-overlap]

    @overload
    def multi(self, texts: Collection[str], **options: Unpack[PromptOptions]) -> list[Floats]: ...

    @overload
    def multi(self, texts: Iterator[str], **options: Unpack[PromptOptions]) -> Iterator[Floats]: ...

    def multi(self, texts: str | Iterable[str], **options: Unpack[PromptOptions]) -> Any:
        """Return a vector of length 1 for each token, shape (vectors, dimensions), for late-interaction models (ColBERT).

        Set `input_type`: such models do not read queries as they read documents.

        Raises:
            WrongTaskError: The model has none.
        """
        return self._computed(texts, matrix_plan("multi", **options))

    @overload
    def tokens(self, texts: str, **options: Unpack[PromptOptions]) -> Floats: ...  # type: ignore[overload-overlap]

    @overload
    def tokens(self, texts: Collection[str], **options: Unpack[PromptOptions]) -> list[Floats]: ...

    @overload
    def tokens(self, texts: Iterator[str], **options: Unpack[PromptOptions]) -> Iterator[Floats]: ...

    def tokens(self, texts: str | Iterable[str], **options: Unpack[PromptOptions]) -> Any:
        """Return the hidden state of each token, special ones included, shape (tokens, width), as the model computed it."""
        return self._computed(texts, matrix_plan("tokens", **options))

    @overload
    def outputs(  # type: ignore[overload-overlap]
        self, texts: str, outputs: Iterable[Output], **options: Unpack[PromptOptions]
    ) -> Outputs: ...

    @overload
    def outputs(
        self, texts: Collection[str], outputs: Iterable[Output], **options: Unpack[PromptOptions]
    ) -> list[Outputs]: ...

    @overload
    def outputs(
        self, texts: Iterator[str], outputs: Iterable[Output], **options: Unpack[PromptOptions]
    ) -> Iterator[Outputs]: ...

    def outputs(self, texts: str | Iterable[str], outputs: Iterable[Output], **options: Unpack[PromptOptions]) -> Any:
        """Return several outputs of each text from one pass through the model: "dense", "multi", "sparse", "tokens".

        Raises:
            WrongTaskError: The model lacks one of them.
        """
        return self._computed(texts, outputs_plan(outputs, **options))

    def rerank(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Return the documents with their relevance to the query, best first.

        A reranker reads query and document together. A late-interaction model compares their tokens' vectors (MaxSim), any
        other embedder the two vectors (cosine). Texts that are too long are cut at the end, or divided with the setting
        `long_text`.

        Args:
            instruction: The task, for models whose prompt has one.
            top_n: Return only the N best.

        Raises:
            EdgeEmbedError: As for `embed`.
        """
        return self._backend.run(of_ranking(query, documents, instruction, top_n))

    def _computed(self, texts: str | Iterable[str], plan: Plan) -> Any:
        if isinstance(texts, Collection):
            return self._backend.run(of_collection(texts, plan))
        return self._each(batches_of(iter(texts), plan.limits), plan)

    def _each(self, batches: Iterator[Batch], plan: Plan) -> Iterator[Any]:
        started: deque[Future[Any]] = deque()
        try:
            for batch in batches:
                started.append(self._backend.submit(of_batch(batch, plan)))
                while len(started) >= AT_ONCE or (started and started[0].done()):
                    yield from self._backend.result(started.popleft())
            while started:
                yield from self._backend.result(started.popleft())
        finally:
            for future in started:
                future.cancel()

    def close(self) -> None:
        """End the worker and close the connections."""
        self._backend.close()

    def __enter__(self) -> Self:
        self._backend.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
