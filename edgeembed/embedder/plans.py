"""The options of the Python API, made into plans and work for a backend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, cast, get_args

import msgspec
import numpy as np

from edgeembed.embedder.results import Numbers, Outputs, Ranked, SparseVector
from edgeembed.engine.interface import OUTPUTS, Output
from edgeembed.engine.outputs import ordered
from edgeembed.inference.number_formats import Dtype, quantised
from edgeembed.inference.postprocess import sparse_vector
from edgeembed.inference.requests import EmbedRequest, RerankRequest
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.runtime.backends import Backend, Parts
from edgeembed.runtime.text_batches import (
    CHARACTERS_PER_BATCH,
    TEXTS_PER_BATCH,
    Batch,
    BatchLimits,
    Plan,
    compute_all,
    compute_batch,
    compute_one,
    rerank_all,
)
from edgeembed.runtime.threaded_backend import Work

T = TypeVar("T")

TOKEN_TEXTS_PER_BATCH = 16
_TOKEN_CHARACTERS_PER_BATCH = 2**13
"""Of texts whose tokens are returned: a token takes as much memory as a whole text does otherwise."""


class PromptOptions(TypedDict, total=False):
    """What is put around texts; `Embedder.embed` describes it."""

    input_type: InputType | None
    instruction: str | None
    prompt: str | None
    batch_size: int


class EmbedOptions(PromptOptions, total=False):
    """The options of `Embedder.embed`, which describes them."""

    dimensions: int | None
    dtype: Dtype


class SparseOptions(PromptOptions, total=False):
    """The options of `Embedder.sparse`, which describes them."""

    top_k: int | None
    threshold: float


@dataclass(frozen=True)
class DensePlan:
    """A row for each text. request: without the texts."""

    request: EmbedRequest
    dtype: Dtype
    limits: BatchLimits

    async def compute(self, backend: Backend, texts: Sequence[str]) -> Numbers:
        return quantised(await backend.embed(msgspec.structs.replace(self.request, texts=texts)), self.dtype)

    def join(self, parts: list[Numbers]) -> Numbers:
        # Not by np.concatenate: together with its parts, the result would take twice its memory.
        rows = np.empty((sum(map(len, parts)), parts[0].shape[1]), parts[0].dtype)
        parts.reverse()
        at = 0
        while parts:
            part = parts.pop()
            rows[at : at + len(part)] = part
            at += len(part)
        return rows


@dataclass(frozen=True)
class OutputsPlan(Generic[T]):
    """Other outputs of each text. request: without the texts. make: returns the caller's form of a text's outputs."""

    request: EmbedRequest
    limits: BatchLimits
    make: Callable[[Parts], T]

    async def compute(self, backend: Backend, texts: Sequence[str]) -> list[T]:
        return [self.make(parts) for parts in await backend.outputs(msgspec.structs.replace(self.request, texts=texts))]

    def join(self, parts: list[list[T]]) -> list[T]:
        return [item for part in parts for item in part]


def dense_plan(
    *, dimensions: int | None = None, dtype: Dtype = "float32", batch_size: int = TEXTS_PER_BATCH, **prompts: Any
) -> DensePlan:
    """Return the plan for options of `embed`. Raises ValueError for an unknown dtype or input type."""
    _check_word("dtype", dtype, get_args(Dtype))
    request = msgspec.structs.replace(_request(**prompts), dimensions=dimensions)
    return DensePlan(request, dtype, _limits(batch_size))


def outputs_plan(outputs: Iterable[Output], **options: Any) -> OutputsPlan[Outputs]:
    """Return the plan for options of `outputs`. Raises ValueError for an unknown output, or for none."""
    wanted: tuple[Output, ...] = (cast(Output, outputs),) if isinstance(outputs, str) else tuple(outputs)
    if not wanted or (unknown := next((output for output in wanted if output not in OUTPUTS), None)):
        said = f"unknown output {unknown!r}" if wanted else "no outputs"
        raise ValueError(f"{said}; expected some of {', '.join(OUTPUTS)}")
    return _plan(ordered(wanted), outputs_of, **options)


def sparse_plan(*, top_k: int | None = None, threshold: float = 0.0, **options: Any) -> OutputsPlan[SparseVector]:
    """Return the plan for options of `sparse`. Raises ValueError for a negative `top_k`."""
    _check_count("top_k", top_k)
    return _plan(("sparse",), lambda parts: SparseVector(*sparse_vector(parts["sparse"], top_k, threshold)), **options)


def matrix_plan(output: Output, **options: Any) -> OutputsPlan[Numbers]:
    """Return the plan for an output with several rows for each text."""
    return _plan((output,), lambda parts: parts[output], **options)


def outputs_of(parts: Parts) -> Outputs:
    """Return the outputs of a text as callers get them."""
    dense, sparse = parts.get("dense"), parts.get("sparse")
    return Outputs(
        None if dense is None else dense[0],
        parts.get("multi"),
        None if sparse is None else SparseVector(*sparse_vector(sparse)),
        parts.get("tokens"),
    )


def _plan(
    outputs: tuple[Output, ...], make: Callable[[Parts], T], *, batch_size: int | None = None, **prompts: Any
) -> OutputsPlan[T]:
    request = msgspec.structs.replace(_request(**prompts), outputs=outputs)
    if "multi" in outputs or "tokens" in outputs:
        limits = _limits(TOKEN_TEXTS_PER_BATCH if batch_size is None else batch_size, _TOKEN_CHARACTERS_PER_BATCH)
    else:
        limits = _limits(TEXTS_PER_BATCH if batch_size is None else batch_size)
    return OutputsPlan(request, limits, make)


def _limits(texts: int, characters: int = CHARACTERS_PER_BATCH) -> BatchLimits:
    """Return the limits of a batch. Raises ValueError for a batch without texts."""
    if texts < 1:
        raise ValueError(f"batch_size is {texts}; expected at least 1")
    return BatchLimits(texts, characters)


def _request(
    *, input_type: InputType | None = None, instruction: str | None = None, prompt: str | None = None
) -> EmbedRequest:
    if input_type is not None:
        _check_word("input_type", input_type, get_args(InputType))
    return EmbedRequest((), input_type=input_type, instruction=instruction, prefix=prompt, param="texts")


def _check_word(name: str, value: object, words: Sequence[str]) -> None:
    """Raise ValueError for an option that is none of these words; the program's own engine does not check them."""
    if value not in words:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(words)}")


def _check_count(name: str, value: int | None) -> None:
    """Raise ValueError for a negative number, which would count from the end of a list."""
    if value is not None and value < 0:
        raise ValueError(f"{name} is {value}; expected at least 0")


# --- work for a backend -----------------------------------------------------------------------------------------------


def of_collection(texts: str | Collection[str], plan: Plan) -> Work[Any]:
    """Return the work of computing a string, or all of a collection."""
    if isinstance(texts, str):
        one = texts
        return lambda backend: compute_one(backend, plan, one)
    given = list(texts)
    return lambda backend: compute_all(backend, plan, given)


def of_batch(batch: Batch, plan: Plan) -> Work[Any]:
    """Return the work of computing a batch."""
    return lambda backend: compute_batch(backend, plan, batch)


def of_ranking(query: str, documents: Iterable[str], instruction: str | None, top_n: int | None) -> Work[list[Ranked]]:
    """Return the work of ranking documents.

    Raises TypeError for a string in place of a list of them, ValueError for a negative `top_n`.
    """
    if isinstance(documents, str):
        raise TypeError("documents is a string; expected a list of strings")
    _check_count("top_n", top_n)
    given = list(documents)
    request = RerankRequest(query, given, instruction=instruction, lengths=Lengths("end", query=True))

    async def rank(backend: Backend) -> list[Ranked]:
        scores = await rerank_all(backend, request)
        found = [Ranked(index, score, document) for index, (score, document) in enumerate(zip(scores, given, strict=True))]
        return sorted(found, key=lambda ranked: -ranked.score)[:top_n]

    return rank
