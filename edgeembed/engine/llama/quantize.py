"""Quantise a GGUF file with llama.cpp's own rules.

Run as `python -m edgeembed.engine.llama.quantize JSON`, where JSON is a `QuantizeJob`. Prints a "DONE OF" line for each
tensor. On failure, the last line of stderr is the reason.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edgeembed.engine.llama.backends import FOLDER, load_backends
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ComputeError, logged_errors, metadata_overrides, send_log_to
from edgeembed.engine.quantize import QuantizeJob
from edgeembed.engine.sandbox import Sandbox

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # llama.cpp's log line at the beginning of each tensor


def quantize_file(
    source: Path,
    target: Path,
    *,
    file_type: int,
    threads: int,
    keep_f32: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Quantise a GGUF file with llama.cpp's own rules for mixed types (llama_model_quantize); the metadata is copied.

    file_type: llama.h's llama_ftype. keep_f32: names of tensors that stay F32. notes: metadata to add, each value at most
    127 bytes. Raises ComputeError.
    """
    load_backends(oldest=False)
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    overrides = (lib.llama_model_tensor_override * (len(keep_f32) + 1))()  # ends with an empty one
    for override, name in zip(overrides, keep_f32, strict=False):
        override.pattern = f"^{re.escape(name)}$".encode()
        override.type = lib.GGML_TYPE_F32
    params.tt_overrides = overrides
    params.kv_overrides = metadata_overrides({key: value.encode() for key, value in (notes or {}).items()})
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise ComputeError(f"llama.cpp cannot quantise {source}{logged_errors()}")


def main(argv: list[str]) -> int:
    """Run a job and return the exit status; see the module's docstring."""
    job = msgspec.json.decode(argv[1], type=QuantizeJob)

    target = Path(job.target)
    target.touch()  # in the sandbox no file can be created
    sandbox = Sandbox(Path(job.source), enabled=job.sandbox, result=target)
    sandbox.restrict_files([FOLDER])
    sandbox.filter_calls()

    def watch(line: str) -> None:
        if found := _TENSOR.search(line):
            sys.stdout.write(f"{found[1]} {found[2]}\n")
            sys.stdout.flush()

    send_log_to(watch, verbose=True)
    try:
        quantize_file(
            Path(job.source),
            target,
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
