"""Parts of llama.cpp that llama-cpp-python does not wrap: functions, structures, numbers, names of tensors.

Apart from the kernels' header `kernels/ggml.h`, only this module knows them. llama.cpp promises none of it to stay:
`tests/engine/llama/test_ggml.py` compiles all that is here against the headers of the release named below.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from ctypes import c_bool, c_char, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from itertools import count
from pathlib import Path
from typing import Any

from edgeembed.engine.llama.bindings import lib

LLAMA_CPP_PYTHON = "0.3.36"
"""The release of llama-cpp-python that this module and `kernels/ggml.h` are written for."""
GGML = "0.25.3"
"""The version of ggml in that release, as `ggml_version` returns it."""

# --- numbers and names ------------------------------------------------------------------------------------------------

TYPE_F32, TYPE_F16, TYPE_Q8_0 = 0, 1, 8
OP_SOFT_MAX, OP_FLASH_ATTN_EXT, OP_GLU = 46, 74, 100
GLU_OP_SWIGLU, GLU_OP_GEGLU_ERF = 2, 4
"""First of the parameters of OP_GLU."""
ATTENTION_MASK = 3
"""Which source of OP_FLASH_ATTN_EXT is the mask: shape [keys, queries, heads or 1, streams or 1], added to the scores."""
SOFT_MAX_MASK = 1
"""The same of OP_SOFT_MAX, in graphs without the fused operation."""
LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_CONTINUED = 1, 2, 3, 4, 5
DEVICE_CPU, DEVICE_GPU, DEVICE_IGPU, DEVICE_ACCEL = 0, 1, 2, 3

LAST_HIDDEN_STATES = b"result_norm"
"""The tensor with a decoder's last hidden states, from which the LM head is computed."""
CLASSIFIER_WEIGHT = b"cls.output.weight"
"""The weights of a reranker's classifier."""
TOKEN_EMBEDDINGS = b"token_embd.weight"
"""The weights from which a graph takes the rows of its tokens."""

# --- structures -------------------------------------------------------------------------------------------------------


class Tensor(ctypes.Structure):
    """ggml.h: ggml_tensor up to its name."""

    _fields_ = (
        ("type", c_int),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * 10),
        ("view_src", c_void_p),
        ("view_offs", c_size_t),
        ("data", c_void_p),
        ("name", c_char * 64),
    )


class DeviceProperties(ctypes.Structure):
    """ggml-backend.h: ggml_backend_dev_props up to the id, then room for the rest, which ggml fills in too."""

    _fields_ = (
        ("name", c_char_p),
        ("description", c_char_p),
        ("memory_free", c_size_t),
        ("memory_total", c_size_t),
        ("type", c_int),
        ("device_id", c_char_p),
        ("rest", c_char * 256),
    )


class InitParameters(ctypes.Structure):
    """ggml.h: ggml_init_params."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class GgufParameters(ctypes.Structure):
    """gguf.h: gguf_init_params."""

    _fields_ = (("no_alloc", c_bool), ("ctx", ctypes.POINTER(c_void_p)))


EvalCallback: Any = dict(lib.llama_context_params._fields_)["cb_eval"]
"""ggml_backend_sched_eval_callback: (address of a tensor, whether llama.cpp asks, user data) -> bool."""

# --- functions --------------------------------------------------------------------------------------------------------

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ggml_version": (c_char_p,),
    "ggml_get_name": (c_char_p, c_void_p),
    "ggml_op_desc": (c_char_p, c_void_p),
    "ggml_nbytes": (c_size_t, c_void_p),
    "ggml_backend_tensor_get": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_tensor_set": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_row_size": (c_size_t, c_int, c_int64),
    "ggml_type_name": (c_char_p, c_int),
    "gguf_init_from_file": (c_void_p, c_char_p, GgufParameters),
    "gguf_free": (None, c_void_p),
    "ggml_get_first_tensor": (c_void_p, c_void_p),
    "ggml_get_next_tensor": (c_void_p, c_void_p, c_void_p),
    "ggml_init": (c_void_p, InitParameters),
    "ggml_free": (None, c_void_p),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_graph_overhead": (c_size_t,),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_mul": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_add": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_norm": (c_void_p, c_void_p, c_void_p, c_float),
    "ggml_gelu_erf": (c_void_p, c_void_p, c_void_p),
    "ggml_new_graph": (c_void_p, c_void_p),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_gallocr_new": (c_void_p, c_void_p),
    "ggml_gallocr_alloc_graph": (c_bool, c_void_p, c_void_p),
    "ggml_gallocr_free": (None, c_void_p),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_buft_name": (c_char_p, c_void_p),
    "ggml_backend_buft_alloc_buffer": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_buffer_free": (None, c_void_p),
    "ggml_backend_dev_init": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_dev_buffer_type": (c_void_p, c_void_p),
    "ggml_backend_dev_supports_op": (c_bool, c_void_p, c_void_p),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
    "ggml_backend_free": (None, c_void_p),
    "ggml_backend_load": (c_void_p, c_char_p),
    "ggml_backend_dev_count": (c_size_t,),
    "ggml_backend_dev_get": (c_void_p, c_size_t),
    "ggml_backend_dev_by_name": (c_void_p, c_char_p),
    "ggml_backend_dev_by_type": (c_void_p, c_int),
    "ggml_backend_dev_get_props": (None, c_void_p, c_void_p),
    "ggml_backend_dev_backend_reg": (c_void_p, c_void_p),
    "ggml_backend_reg_name": (c_char_p, c_void_p),
    "llama_get_embeddings_seq": (c_void_p, c_void_p, c_int32),  # llama_cpp's own makes a pointer object for each row
}
"""Type of the result and types of the arguments."""

SET_THREADS_FUNCTION = b"ggml_backend_set_n_threads"
EXTRA_BUFFERS_FUNCTION = b"ggml_backend_dev_get_extra_bufts"
"""Of the processor's backend, through `ggml_backend_reg_get_proc_address`: (backend, threads) -> None, and device -> buffer
types that hold weights in a layout of their own, up to a null."""

SCORE_FUNCTION = "ggml_backend_score"
"""Exported by each module of a backend, without arguments: how well it suits this processor as an int, 0 for not at all."""

KERNEL_FUNCTIONS = (
    "_Z39ggml_backend_cpu_get_extra_buffer_typesv",
    "ggml_backend_cpu_buffer_type",
    "ggml_backend_buft_alloc_buffer",
    "ggml_barrier",
    "ggml_op_name",
    "ggml_unary_op_name",
    "ggml_tensor_overhead",
    "ggml_backend_dev_by_type",
    "ggml_backend_cpu_set_n_threads",
)
"""The functions that the kernels call, in the order of `Ggml` in `kernels/ggml.h`, which declares them."""


def function(name: str) -> Any:
    """Return a C function of `SIGNATURES`, with its types. Raises AttributeError when llama.cpp has none of this name."""
    found = find_symbol(name)
    found.restype, *found.argtypes = SIGNATURES[name]
    return found


def find_symbol(name: str) -> Any:
    """Return a function of the ggml that llama.cpp itself uses. Raises AttributeError, OSError.

    The wheel has no symbolic links: loading ggml by its file name can load a second copy, with its own state, which
    llama.cpp never sees.
    """
    try:
        return lib._lib[name]
    except AttributeError:
        if sys.platform != "win32":
            raise
        # Windows searches one library at a time, and finds a loaded one by its file name. The package itself cannot be
        # imported here: it may lie where only `bindings` looks.
        load_shared_library = sys.modules["llama_cpp._ctypes_extensions"].load_shared_library
        folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or Path(lib.__file__).parent / "lib")
        # The registry of backends is in `ggml`, everything else in `ggml-base`.
        for home in ("ggml-base", "ggml"):
            with contextlib.suppress(AttributeError):
                return load_shared_library(home, folder)[name]
        raise


def up_to_null(pointers: Any) -> Iterator[int]:
    """Yield the addresses of an array of pointers that ends with a null, or that is null itself."""
    for number in count() if pointers else ():
        if not pointers[number]:
            return
        yield pointers[number]
