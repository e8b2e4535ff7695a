"""Quantise a GGUF file in a child process: native code stays out of the process that asks.

Run as `python -m edgeembed.engine.quantize JSON`, where JSON is a `QuantizeJob`. Prints a "DONE OF" line for each
tensor; what went wrong is the last line of stderr.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeembed.errors import ConversionError

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # llama.cpp's log line at the beginning of each tensor


class QuantizeJob(msgspec.Struct, frozen=True):
    """What to quantise. file_type: llama.h's llama_ftype; keep_f32: tensors that stay F32; notes: metadata to add."""

    source: str
    target: str
    file_type: int
    threads: int
    keep_f32: list[str]
    notes: dict[str, str] = {}


def run_job(job: QuantizeJob, progress: Callable[[int, int], None] | None = None) -> None:
    """Run a job in a child process; `progress(done, total)` counts tensors.

    Raises ConversionError. When interrupted, the child is ended; the target may then be half a file.
    """
    command = [sys.executable, "-P", "-m", "edgeembed.engine.quantize", msgspec.json.encode(job).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as child:
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
        reason = said[-1] if said else f"llama.cpp ended with status {child.returncode}"
        raise ConversionError(f"{Path(job.source).name} cannot be quantised: {reason}")


def main(argv: list[str]) -> int:
    """Do a job; see the module's docstring."""
    from edgeembed.engine.llama.model import ComputeError, quantize_file, send_log_to

    job = msgspec.json.decode(argv[1], type=QuantizeJob)

    def watch(line: str) -> None:
        if found := _TENSOR.search(line):
            sys.stdout.write(f"{found[1]} {found[2]}\n")
            sys.stdout.flush()

    send_log_to(watch, verbose=True)
    try:
        quantize_file(
            Path(job.source),
            Path(job.target),
            file_type=job.file_type,
            threads=job.threads,
            keep_f32=job.keep_f32,
            notes=job.notes,
        )
    except ComputeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
