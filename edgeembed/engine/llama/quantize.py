"""Quantise a GGUF file with llama.cpp's quantisers.

Run as `python -m edgeembed.engine.llama.quantize` with a `QuantizeJob` as JSON on stdin. Prints a "DONE OF" line for each
step: a text whose activations were measured, or a tensor. On failure, the last line of stderr is the reason.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeembed.engine.llama.backends import FOLDER, load_backends
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.importance import Importance, measure
from edgeembed.engine.llama.library import ComputeError, ModelLoadError, logged_errors, metadata_overrides, send_log_to
from edgeembed.engine.quantize import QuantizeJob
from edgeembed.engine.sandbox import Sandbox

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # llama.cpp's log line at the beginning of each tensor


def quantize_file(job: QuantizeJob, importance: Importance | None = None) -> None:
    """Quantise a GGUF file with llama_model_quantize; the metadata is copied. Raises ComputeError."""
    load_backends(oldest=False)
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = job.file_type
    params.nthread = job.threads
    overrides = params.tt_overrides = _type_overrides(job.types)
    columns = params.imatrix = _importance_data(importance) if importance else None
    params.kv_overrides = metadata_overrides({key: value.encode() for key, value in job.notes.items()})
    code = lib.llama_model_quantize(job.source.encode(), job.target.encode(), ctypes.byref(params))
    del overrides, columns  # until here llama.cpp reads them
    if code != 0:
        raise ComputeError(f"llama.cpp cannot quantise {job.source}{logged_errors()}")


def _type_overrides(types: Mapping[str, str]) -> Any:
    overrides = (lib.llama_model_tensor_override * (len(types) + 1))()  # ends with an empty one
    for override, (name, kind) in zip(overrides, types.items(), strict=False):
        override.pattern = f"^{re.escape(name)}$".encode()
        override.type = getattr(lib, f"GGML_TYPE_{kind}")
    return overrides


def _importance_data(importance: Importance) -> Any:
    array = (lib.llama_model_imatrix_data * (len(importance) + 1))()  # ends with an empty one
    for entry, (name, values) in zip(array, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return array


def main() -> int:
    """Run a job and return the exit status; see the module's docstring."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=QuantizeJob)

    target = Path(job.target)
    target.touch()  # in the sandbox no file can be created
    sandbox = Sandbox(Path(job.source), enabled=job.sandbox, result=target)
    sandbox.restrict_files([FOLDER])
    sandbox.filter_calls()
    texts = len(job.texts)

    def report(done: int, total: int) -> None:
        sys.stdout.write(f"{done} {total}\n")
        sys.stdout.flush()

    def watch(line: str) -> None:
        if found := _TENSOR.search(line):
            report(texts + int(found[1]), texts + int(found[2]))

    send_log_to(watch, verbose=True)
    try:
        importance = None
        if texts:
            # As many tensors as texts, until llama.cpp says how many there are.
            importance = measure(
                Path(job.source), job.texts, threads=job.threads, task=job.task, done=lambda done: report(done, 2 * texts)
            )
        quantize_file(job, importance)
    except (ComputeError, ModelLoadError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
