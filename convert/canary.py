"""Canary rows: the rows of a few fixed texts with the unquantised weights, stored in every file made from them.

llama.cpp computes them in a child process, with plain kernels, from a file of the unquantised weights. A checkpoint that
llama.cpp cannot load therefore fails during the conversion.
"""

from __future__ import annotations

import asyncio
import mmap
from pathlib import Path

import numpy as np

from edgeembed.engine import canary
from edgeembed.engine.execution_modes import CPU_PLAIN, ExecutionMode
from edgeembed.engine.interface import BULK, Float32Row, Row, Task
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import ConversionError, EngineUnavailableError, InputTooLongError
from edgeembed_convert.metadata import Metadata

CONTEXT_TOKENS = 1024
"""Context for the texts and a reranker's template; decoders allocate memory for all of it."""


def placeholder(width: int, task: Task) -> Metadata:
    """Return metadata with placeholders for rows of `width` numbers; the values have their final length."""
    texts = canary.texts_for(task)
    missing = np.full(width, np.nan, dtype=np.float32)
    return {
        canary.TEXTS_KEY: canary.write_texts(texts),
        canary.ROWS_KEY: canary.encode_rows([missing] * len(texts)),
    }


def filled(metadata: Metadata, rows: str) -> Metadata:
    """Return the metadata with the rows instead of the placeholder."""
    return {**metadata, canary.ROWS_KEY: rows}


def compute(file: Path, task: Task, *, sandbox: bool = True) -> str:
    """Return the value of ROWS_KEY: the rows of the canary texts, or a model's scores of them, computed with a GGUF file.

    Raises ConversionError if llama.cpp cannot load the file or computes unusable rows.
    """
    try:
        rows = asyncio.run(_embed(file, task, sandbox))
    except EngineUnavailableError as error:
        raise ConversionError(f"llama.cpp cannot run the converted model: {error.message}") from error
    if not any(np.isfinite(row).all() for row in rows):
        raise ConversionError("none of the canary texts fits into the context of the model")
    return canary.encode_rows(rows)


def fill(file: Path, rows: str) -> None:
    """Overwrite the placeholder in a finished file. Format: ggml's docs/gguf.md: key, type, length, string."""
    key = canary.ROWS_KEY.encode()
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        at = content.find(key) + len(key)
        length = int.from_bytes(content[at + 4 : at + 12], "little")
        if at < len(key) or length != len(rows):
            raise ConversionError(f"{file}: no placeholder for canary rows")
        content[at + 12 : at + 12 + length] = rows.encode("ascii")


async def _embed(file: Path, task: Task, sandbox: bool) -> list[Float32Row]:
    def options(mode: ExecutionMode) -> WorkerOptions:
        return WorkerOptions(
            path=str(file),
            threads=usable_threads(),
            context_tokens=CONTEXT_TOKENS,
            batch_tokens=128,
            mode=mode.name,
            extra_buffers=mode.extra_buffers,
            task=task,
            sandbox=sandbox,
        )

    engine = WorkerEngine(options, FallbackPolicy((CPU_PLAIN,)))
    try:
        await engine.start()
        assert engine.info is not None
        missing = np.full(engine.info.dimensions, np.nan, dtype=np.float32)
        results: list[Row | BaseException] = []
        for text in canary.texts_for(task):
            # One at a time: batches would depend on timing, and the last digits on the batches.
            results += await asyncio.gather(*engine.submit([text], BULK), return_exceptions=True)
    finally:
        await engine.close()
    rows = []
    for result in results:
        if isinstance(result, BaseException):
            if not isinstance(result, InputTooLongError):
                raise ConversionError(f"llama.cpp cannot run the converted model: {result}") from result
            rows.append(missing)
        else:
            rows.append(result.vector)
    return rows
