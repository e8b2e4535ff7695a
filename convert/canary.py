"""Canary rows: what a few fixed texts give with the unquantised weights, written into every file that comes of them.

The rows are computed by llama.cpp itself, on plain kernels and in a child process, from a file of the weights as they are;
so a checkpoint that llama.cpp cannot load is found out here, before anybody serves it.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeembed.engine import canary
from edgeembed.engine.execution_modes import CPU_PLAIN, ExecutionMode
from edgeembed.engine.interface import BULK, Float32Row, Row, Text
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import ConversionError, EngineUnavailableError, InputTooLongError
from edgeembed_convert.metadata import Metadata

MOST_TOKENS = 1024
"""Room for the texts and a reranker's template; a decoder reserves memory for all of it."""


def placeholder(width: int, *, scores: bool) -> Metadata:
    """Give the metadata of a file whose rows, of `width` numbers, are not there yet; the values have their final length."""
    texts = _texts(scores)
    missing = np.full(width, np.nan, dtype=np.float32)
    return {
        canary.TEXTS_KEY: canary.write_texts(texts),
        canary.ROWS_KEY: canary.encode_rows([missing] * len(texts)),
    }


def filled(metadata: Metadata, rows: str) -> Metadata:
    """Give metadata with the rows in place of the placeholder."""
    return {**metadata, canary.ROWS_KEY: rows}


def compute(file: Path, *, scores: bool) -> str:
    """Compute the rows of the canary texts, or a reranker's scores, with a GGUF file; gives the value of ROWS_KEY.

    Raises ConversionError when llama.cpp cannot load the file or gives unusable rows.
    """
    try:
        rows = asyncio.run(_embed(file, scores))
    except EngineUnavailableError as error:
        raise ConversionError(f"llama.cpp does not run what was converted: {error.message}") from error
    if not any(np.isfinite(row).all() for row in rows):
        raise ConversionError("no canary text fits the model's context")
    return canary.encode_rows(rows)


def fill(file: Path, rows: str) -> None:
    """Write the rows over the placeholder in a finished file. Format: ggml's docs/gguf.md: key, type, length, string."""
    key = canary.ROWS_KEY.encode()
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        at = content.find(key) + len(key)
        length = int.from_bytes(content[at + 4 : at + 12], "little")
        if at < len(key) or length != len(rows):
            raise ConversionError(f"{file}: has no place for canary rows")
        content[at + 12 : at + 12 + length] = rows.encode("ascii")


def _texts(scores: bool) -> Sequence[Text]:
    return canary.PAIRS if scores else canary.TEXTS


async def _embed(file: Path, scores: bool) -> list[Float32Row]:
    def options(mode: ExecutionMode) -> WorkerOptions:
        return WorkerOptions(
            path=str(file),
            threads=usable_threads(),
            context_tokens=MOST_TOKENS,
            batch_tokens=128,
            mode=mode.name,
            extra_buffers=mode.extra_buffers,
            task="rerank" if scores else "embed",
        )

    engine = WorkerEngine(options, FallbackPolicy((CPU_PLAIN,)))
    try:
        await engine.start()
        assert engine.info is not None
        missing = np.full(engine.info.dimensions, np.nan, dtype=np.float32)
        answers: list[Row | BaseException] = []
        for text in _texts(scores):
            # One after the other: which texts share a batch would depend on the moment, and the last digits on that.
            answers += await asyncio.gather(*engine.submit([text], BULK), return_exceptions=True)
    finally:
        await engine.close()
    rows = []
    for answer in answers:
        if isinstance(answer, BaseException):
            if not isinstance(answer, InputTooLongError):
                raise ConversionError(f"llama.cpp does not run what was converted: {answer}") from answer
            rows.append(missing)
        else:
            rows.append(answer.vector)
    return rows
