"""One word for why a mode of the ladder did not hold, out of what a worker, llama.cpp or a driver said.

The words of others are those of CUDA's error strings (cudaGetErrorString), of Vulkan's results (VkResult), of ggml's and
llama.cpp's log.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

Cause = Literal[
    "no_driver", "driver_too_old", "no_device", "out_of_memory", "device_lost", "wrong_vectors", "hang", "killed", "crash",
    "other",
]  # fmt: skip
CAUSES: tuple[str, ...] = get_args(Cause)

_PATTERNS: tuple[tuple[Cause, str], ...] = (
    ("driver_too_old", r"driver version is insufficient|driver.* is too old|unsupported toolchain|no kernel image"),
    ("no_driver", r"no NVIDIA driver|driver.*(missing|not loaded)|libcuda|nvcuda|cannot be loaded|has kernels for"),
    (
        "out_of_memory",
        r"out of memory|OutOf(Device|Host)Memory|cannot allocate|failed to allocate|not enough memory|bad_alloc|MemoryError"
        r"|allocation of .* failed|ENOMEM|unable to (allocate|mmap)",
    ),
    (
        "device_lost",
        r"device.?lost|fallen off the bus|GPU is lost|unspecified launch failure|illegal memory access|uncorrectable"
        r"|hardware (stack )?error|remote RPC server crashed|misaligned address|driver shutting down|launch timed out",
    ),
    ("no_device", r"no CUDA-capable device|finds no |sees no card|no program sees a GPU|no NVIDIA card|cuda error: initial"),
    ("wrong_vectors", r"canary|not finite|all zeros|different rows"),
    ("hang", r"no answer for|nothing has come for"),
    ("killed", r"SIGKILL|SIGTERM|SIGINT"),
    ("crash", r"^ended |ended by|exit status"),
)


def cause_of(reason: str) -> Cause:
    """Name the cause that a reason tells of; the first that fits, as a crash has a cause of its own more often than not."""
    for cause, pattern in _PATTERNS:
        if re.search(pattern, reason, re.IGNORECASE):
            return cause
    return "other"
