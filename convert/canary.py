"""Canary rows: the rows of a few fixed texts with the unquantised weights, stored in every file made from them.

llama.cpp computes them in a child process, with plain kernels, from a file of the unquantised weights. A checkpoint that
llama.cpp cannot load therefore fails during the conversion.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeembed.engine import canary
from edgeembed.engine.execution_modes import CPU_PLAIN, ExecutionMode
from edgeembed.engine.interface import BULK, DENSE, Float32Row, Output, Task, Text
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.outputs import unpack
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import ConversionError, EdgeEmbedError, EngineUnavailableError, InputTooLongError
from edgeembed_convert.metadata import Metadata

CONTEXT_TOKENS = 1024
"""Context for the texts and a reranker's template; decoders allocate memory for all of it."""
_NO_SKETCH = np.full(canary.SKETCH_NUMBERS, np.nan, dtype=np.float32)


def placeholder(width: int, heads: Sequence[Output], task: Task) -> Metadata:
    """Return metadata with placeholders for rows of `width` numbers; the values have their final length.

    heads: the outputs that the file has heads for, besides the dense row.
    """
    texts = canary.texts_for(task)
    missing = np.full(width, np.nan, dtype=np.float32)
    return {
        canary.TEXTS_KEY: canary.write_texts(texts),
        canary.ROWS_KEY: canary.encode_rows([missing] * len(texts)),
        **{canary.SKETCH_KEYS[output]: canary.encode_rows([_NO_SKETCH] * len(canary.HEAD_TEXTS)) for output in heads},
    }


def compute(file: Path, heads: Sequence[Output], task: Task, *, sandbox: bool = True) -> dict[str, str]:
    """Return the values of the placeholders' keys: the rows of the canary texts, or a model's scores of them, computed with
    a GGUF file, and the sketches of what its heads compute.

    Raises ConversionError if llama.cpp cannot load the file or computes unusable rows.
    """
    try:
        rows, sketches = asyncio.run(_embed(file, heads, task, sandbox))
    except EngineUnavailableError as error:
        raise ConversionError(f"llama.cpp cannot run the converted model: {error.message}") from error
    if not any(np.isfinite(row).all() for row in rows):
        raise ConversionError("none of the canary texts fits into the context of the model")
    return {canary.ROWS_KEY: canary.encode_rows(rows)} | {
        canary.SKETCH_KEYS[output]: canary.encode_rows(found) for output, found in sketches.items()
    }


def fill(file: Path, rows: Mapping[str, str]) -> None:
    """Overwrite the placeholders in a finished file. Format: ggml's docs/gguf.md: key, type, length, string."""
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as content:
        for name, value in rows.items():
            key = name.encode()
            at = content.find(len(key).to_bytes(8, "little") + key) + 8 + len(key)
            length = int.from_bytes(content[at + 4 : at + 12], "little")
            if at < 8 + len(key) or length != len(value):
                raise ConversionError(f"{file}: no placeholder for canary rows ({name})")
            content[at + 12 : at + 12 + length] = value.encode("ascii")


async def _embed(
    file: Path, heads: Sequence[Output], task: Task, sandbox: bool
) -> tuple[list[Float32Row], dict[Output, list[Float32Row]]]:
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
        rows = [missing if row is None else row for row in await _rows(engine, canary.texts_for(task), DENSE)]
        sketches: dict[Output, list[Float32Row]] = {}
        for output in heads:
            found = await _rows(engine, canary.HEAD_TEXTS, (output,))
            sketches[output] = [
                _NO_SKETCH if row is None else canary.sketch(output, unpack(row, (output,))[output]) for row in found
            ]
    finally:
        await engine.close()
    return rows, sketches


async def _rows(engine: WorkerEngine, texts: Sequence[Text], outputs: tuple[Output, ...]) -> list[Float32Row | None]:
    """Return the row of each text; None where it is too long for the model. Raises ConversionError."""
    rows: list[Float32Row | None] = []
    for text in texts:
        # One at a time: batches would depend on timing, and the last digits on the batches.
        try:
            (row,) = await asyncio.gather(*engine.submit([text], BULK, outputs=outputs))
        except InputTooLongError:
            rows.append(None)
        except EdgeEmbedError as error:
            raise ConversionError(f"llama.cpp cannot run the converted model: {error}") from error
        else:
            rows.append(row.vector)
    return rows
