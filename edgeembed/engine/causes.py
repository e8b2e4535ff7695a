"""Causes: one word for why a model could not be run in an execution mode, set where the failure arises.

Only the texts of others are read for one: the error strings of CUDA (cudaGetErrorString) and Vulkan (VkResult), the logs of
ggml and llama.cpp, and what a dying process printed. They arrive in the worker, in `gpu/` and on a worker's stderr.
"""

from __future__ import annotations

import errno
import re
from typing import Literal, get_args

Cause = Literal[
    "no_driver", "driver_too_old", "no_device", "out_of_memory", "device_lost", "wrong_vectors", "hang", "killed", "crash",
    "refused", "replaced", "other",
]  # fmt: skip
CAUSES: tuple[Cause, ...] = get_args(Cause)

_FOREIGN_PATTERNS: dict[Cause, str] = {
    "driver_too_old": r"driver version is insufficient|unsupported toolchain|no kernel image",
    "no_driver": r"libcuda|nvcuda",
    "out_of_memory": (
        r"out of memory|OutOf(Device|Host)Memory|cannot allocate|failed to allocate|not enough memory|bad_alloc|MemoryError"
        r"|allocation of .* failed|ENOMEM|unable to (allocate|mmap)"
    ),
    "device_lost": (
        r"device.?lost|fallen off the bus|GPU is lost|unspecified launch failure|illegal memory access|uncorrectable"
        r"|hardware (stack )?error|remote RPC server crashed|misaligned address|driver shutting down|launch timed out"
    ),
    # By the sandbox or by file modes: EPERM, EACCES and ENOSYS in the words of the C library and of Python.
    "refused": r"Permission ?(denied|Error)|Operation not permitted|Function not implemented",
    "no_device": r"no CUDA-capable device|cuda error: initial",
}


def cause_in_foreign_text(text: str) -> Cause | None:
    """Return the cause that an error text of a driver, ggml, llama.cpp or a runtime names; None for any other text."""
    found = (cause for cause, pattern in _FOREIGN_PATTERNS.items() if re.search(pattern, text, re.IGNORECASE))
    return next(found, None)


def cause_of_os_error(error: OSError) -> Cause:
    """Return the cause of a process that could not be started."""
    return "out_of_memory" if error.errno == errno.ENOMEM else "other"
