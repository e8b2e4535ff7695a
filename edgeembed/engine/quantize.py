"""Quantising a GGUF file in a child process (`edgeembed.engine.llama.quantize`), to keep native code out of this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeembed.engine.child_environment import child_environment
from edgeembed.errors import ConversionError


class QuantizeJob(msgspec.Struct, frozen=True):
    """What to quantise. file_type: llama.h's llama_ftype; keep_f32: tensors that stay F32; notes: metadata to add; sandbox:
    whether the child process restricts what it may do, where the system can.
    """

    source: str
    target: str
    file_type: int
    threads: int
    keep_f32: list[str]
    notes: dict[str, str] = {}
    sandbox: bool = True


def run_job(job: QuantizeJob, progress: Callable[[int, int], None] | None = None) -> None:
    """Run a job in a child process. progress: called with the number of tensors done, and of all tensors.

    Raises ConversionError. When interrupted, the child is killed and may leave an incomplete target.
    """
    command = [sys.executable, "-P", "-m", "edgeembed.engine.llama.quantize", msgspec.json.encode(job).decode()]
    # NumPy's threads compute nothing there, and would keep Landlock from restricting the process.
    environment = child_environment(OPENBLAS_NUM_THREADS="1")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        try:
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
