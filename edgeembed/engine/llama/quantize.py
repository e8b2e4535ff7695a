"""Quantising a GGUF file with llama.cpp's own rules."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeembed.engine.llama.backends import load_backends
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.library import ComputeError, metadata_overrides, said


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

    file_type: llama.h's llama_ftype. keep_f32: names of tensors that stay F32. notes: metadata to add, each at most 127
    bytes. Raises ComputeError.
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
        raise ComputeError(f"llama.cpp cannot quantise {source}{said()}")
