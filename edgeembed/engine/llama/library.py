"""What the modules that call llama.cpp share: its errors, its log, and functions of ggml that `llama_cpp` does not wrap.

Only modules whose name begins with `llama` import `llama_cpp`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.llama.bindings import lib


class ModelLoadError(Exception):
    """The file cannot be served. fatal: no other execution mode would help."""

    def __init__(self, message: str, *, fatal: bool, cause: Cause = "other") -> None:
        super().__init__(message)
        self.fatal = fatal
        self.cause: Cause = cause


class ComputeError(Exception):
    """A forward pass failed; the context stays usable."""

    def __init__(self, message: str, cause: Cause = "other") -> None:
        super().__init__(message)
        self.cause: Cause = cause


# --- functions --------------------------------------------------------------------------------------------------------


def function(name: str, result: Any, *arguments: Any) -> Any:
    """Give a C function of llama.cpp or ggml with the types of its result and its arguments.

    It comes from the copy of ggml that llama.cpp itself uses: the wheel has no symbolic links, so loading ggml by its file
    name can give a second copy, whose state llama.cpp never sees.
    """
    found = _find(name)
    found.restype = result
    found.argtypes = arguments
    return found


def _find(name: str) -> Any:
    try:
        return lib._lib[name]
    except AttributeError:  # Windows looks for a name in one library alone, and knows a loaded one by its file name
        from llama_cpp._ctypes_extensions import load_shared_library
        from llama_cpp._ggml import libggml_base_path

        # The registry of backends is in `ggml`, everything else in `ggml-base`.
        for home in ("ggml-base", "ggml"):
            with contextlib.suppress(AttributeError):
                return load_shared_library(home, libggml_base_path)[name]
        raise


# --- metadata ---------------------------------------------------------------------------------------------------------


def metadata_overrides(values: Mapping[str, bool | bytes]) -> Any:
    """Give metadata that llama.cpp shall take instead of the file's: a list that ends with an empty key."""
    overrides = (lib.llama_model_kv_override * (len(values) + 1))()
    for override, (key, value) in zip(overrides, values.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, bool):
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
            override.value.val_bool = value
        else:
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
            override.value.val_str = value
    return overrides


def system_info() -> str:
    """Give llama-cpp-python's version and the processor features that its build uses."""
    from importlib.metadata import version

    features = lib.llama_print_system_info().decode("utf-8", "replace").strip().rstrip("|").strip()
    return f"llama-cpp-python {version('llama-cpp-python')} ({features})"


# --- log --------------------------------------------------------------------------------------------------------------

_log_callbacks: list[object] = []
_recent_errors: deque[str] = deque(maxlen=3)


def send_log_to(write: Callable[[str], object], *, verbose: bool) -> None:
    """Send llama.cpp's log lines to `write`: warnings and errors only, unless verbose."""
    levels_shown = (3, 4) if not verbose else (1, 2, 3, 4)
    last_shown = [False]

    def receive(level: int, text: bytes, _user_data: object) -> None:
        # Level 5 continues the line before it.
        shown = last_shown[0] if level == 5 else level in levels_shown
        last_shown[0] = shown
        if shown:
            line = text.decode("utf-8", "replace")
            write(line)
            if level == 4:
                _recent_errors.append(line.strip())

    callback = lib.llama_log_callback(receive)
    _log_callbacks.append(callback)  # llama.cpp keeps only the address
    lib.llama_log_set(callback, ctypes.c_void_p(0))


def said() -> str:
    """Quote what llama.cpp logged as errors: its functions give no reason of their own."""
    return f" ({'; '.join(_recent_errors)})" if _recent_errors else ""


def logged_cause(otherwise: Cause) -> Cause:
    """Return the cause that llama.cpp's latest errors name."""
    return cause_in_foreign_text("\n".join(_recent_errors)) or otherwise
