"""Quantising a GGUF file in a child process (`edgeembed.engine.llama.quantize`), to keep native code out of this one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgeembed.engine.child_environment import child_environment
from edgeembed.engine.interface import Pair, Task
from edgeembed.errors import ConversionError


class QuantizeJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to quantise, and how."""

    source: str
    """A file of unquantised weights."""
    target: str
    file_type: int
    """llama.h's llama_ftype, whose rules decide the type of tensors that are not in `types`."""
    threads: int
    types: dict[str, str] = {}
    """Names of tensors, and of ggml's type for each."""
    texts: list[str | Pair] = []
    """Texts, or pairs for a reranker, that show which columns of the matrices matter; none: all matter the same."""
    task: Task = "embed"
    """Of the model."""
    notes: dict[str, str] = {}
    """Metadata to add."""
    sandbox: bool = True
    """Whether the child process restricts what it may do, where the system can."""


def run_job(job: QuantizeJob, progress: Callable[[int, int], None] | None = None) -> None:
    """Run a job in a child process. progress: called with the number of steps done, and of all steps.

    Raises ConversionError. When interrupted, the child is killed and may leave an incomplete target.
    """
    command = [sys.executable, "-P", "-m", "edgeembed.engine.llama.quantize"]
    # NumPy's threads compute nothing there, and would keep Landlock from restricting the process.
    environment = child_environment(OPENBLAS_NUM_THREADS="1")
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **streams, text=True, errors="replace", env=environment) as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # the child failed, and says why
                child.stdin.write(msgspec.json.encode(job).decode())
                child.stdin.close()
            for line in child.stdout:
                done, _, total = line.partition(" ")
                if progress and done.isdecimal():
                    progress(int(done), int(total))
            said = child.stderr.read().strip().splitlines()
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        reason = said[-1] if said else f"llama.cpp exited with status {child.returncode}"
        raise ConversionError(f"{Path(job.source).name} cannot be quantised: {reason}")
