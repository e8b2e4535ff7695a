"""What the modules that call llama.cpp share: errors, metadata overrides, the log."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeembed.engine.causes import Cause, cause_in_foreign_text
from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.llama.ggml import LOG_CONTINUED, LOG_DEBUG, LOG_ERROR, LOG_INFO, LOG_WARN
from edgeembed.engine.llama_package import find_distribution


def _installed_version() -> str:
    """Return llama-cpp-python's version by the name of its metadata: importlib.metadata would import parsers of mail."""
    names = [folder.name for folder in Path(lib.__file__).parents[1].glob("llama_cpp_python-*.dist-info")]
    if len(names) == 1:
        return names[0].removesuffix(".dist-info").partition("-")[2]
    found = find_distribution()
    return found.version if found else "unknown"


LLAMA_CPP_PYTHON = _installed_version()
"""The installed version; read now, because a worker's sandbox allows no look at packages that are not imported."""


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


# --- metadata ---------------------------------------------------------------------------------------------------------


def metadata_overrides(values: Mapping[str, bool | int | bytes]) -> Any:
    """Return metadata that overrides the file's, as llama.cpp takes it: an array that ends with an empty key."""
    overrides = (lib.llama_model_kv_override * (len(values) + 1))()
    for override, (key, value) in zip(overrides, values.items(), strict=False):
        override.key = key.encode()
        if isinstance(value, bool):
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
            override.value.val_bool = value
        elif isinstance(value, int):
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
            override.value.val_i64 = value
        else:
            override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
            override.value.val_str = value
    return overrides


def system_info() -> str:
    """Return llama-cpp-python's version and the processor features that its build uses."""
    features = lib.llama_print_system_info().decode("utf-8", "replace").strip().rstrip("|").strip()
    return f"llama-cpp-python {LLAMA_CPP_PYTHON} ({features})"


# --- log --------------------------------------------------------------------------------------------------------------

_log_callbacks: list[object] = []
_recent_errors: deque[str] = deque(maxlen=3)


def send_log_to(write: Callable[[str], object], *, verbose: bool) -> None:
    """Send llama.cpp's log lines to `write`: warnings and errors only, unless verbose."""
    levels_shown = {LOG_WARN, LOG_ERROR} | ({LOG_DEBUG, LOG_INFO} if verbose else set())
    last_shown = [False]

    def receive(level: int, text: bytes, _user_data: object) -> None:
        shown = last_shown[0] if level == LOG_CONTINUED else level in levels_shown
        last_shown[0] = shown
        if shown:
            line = text.decode("utf-8", "replace")
            write(line)
            if level == LOG_ERROR:
                _recent_errors.append(line.strip())

    callback = lib.llama_log_callback(receive)
    _log_callbacks.append(callback)  # llama.cpp keeps only the address
    lib.llama_log_set(callback, ctypes.c_void_p(0))


def logged_errors() -> str:
    """Return llama.cpp's latest logged errors in parentheses, or "": its functions return no reason of their own."""
    return f" ({'; '.join(_recent_errors)})" if _recent_errors else ""


def logged_cause(otherwise: Cause) -> Cause:
    """Return the cause that llama.cpp's latest errors name."""
    return cause_in_foreign_text("\n".join(_recent_errors)) or otherwise
