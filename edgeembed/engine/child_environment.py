"""The environment variables of our processes that load llama.cpp or call a driver: those that they need, and no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_NEEDED = re.compile(
    # of the system: programs, folders, language, time zone
    r"PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|TMP|TEMP|LANG|LANGUAGE|LC_[A-Z]+|TZ"
    r"|XDG_(CACHE|CONFIG|DATA)_HOME|XDG_(CONFIG|DATA)_DIRS|XDG_RUNTIME_DIR"
    # of Windows, without which sockets and libraries fail
    r"|SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|USERPROFILE|(LOCAL)?APPDATA|PROGRAM(FILES|DATA|W6432).*|NUMBER_OF_PROCESSORS"
    r"|PROCESSOR_[A-Z0-9]+"
    # of the dynamic linker, the allocator and sanitizers
    r"|LD_(LIBRARY_PATH|PRELOAD|BIND_NOW|AUDIT)|DYLD_[A-Z_]+|GLIBC_TUNABLES|MALLOC_[A-Z_]+|[ALTU]B?SAN_OPTIONS|JEMALLOC_SYS_.*"
    # of our own: where stamps of its stages are written (common/trace.py)
    r"|_EDGEEMBED_TRACE"
    # of Python
    r"|PYTHON[A-Z0-9]+|VIRTUAL_ENV|COVERAGE_[A-Z_]+|__PYVENV_LAUNCHER__|_MEIPASS\w*|_PYI_\w+"
    # of llama.cpp, OpenMP and linear algebra; LLAMA_API_KEY is a secret, so there is no LLAMA_ prefix
    r"|GGML_[A-Z0-9_]+|LLAMA_CPP_LIB_PATH|(OMP|GOMP|KMP|OPENBLAS|MKL|BLIS)_[A-Z0-9_]+"
    # of graphics cards; NVIDIA_API_KEY is a secret, so there is no NVIDIA_ prefix
    r"|CUDA_[A-Z0-9_]+|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|TF32_OVERRIDE)"
    r"|(HIP|HSA|ROCR|ROCM|ROCBLAS|MUSA|MTL|METAL|VK|MESA|RADV|ZE|ONEAPI|SYCL|ASCEND)_[A-Z0-9_]+",
    re.ASCII,
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH")
"""Parts of names that no variable of the above has; some variable of tomorrow may."""


def child_environment(environ: Mapping[str, str] | None = None, **more: str) -> dict[str, str]:
    """Return the variables for a child process that loads llama.cpp or calls a driver. more: set in addition.

    Foreign code in that process, and a model file that takes it over, cannot read what is not there.
    """
    given = os.environ if environ is None else environ
    needed = {
        name: value for name, value in given.items() if _NEEDED.fullmatch(name.upper()) and not _SECRET.search(name.upper())
    }
    # On a crash ggml would start a debugger, if there is one.
    return {**needed, "GGML_NO_BACKTRACE": "1", **more}
