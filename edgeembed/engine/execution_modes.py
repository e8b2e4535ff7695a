"""Execution modes: ways to run a model, from the fastest to the safest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeembed.engine.causes import Cause
from edgeembed.engine.llama_package import find_distribution


class ModeUnavailableError(Exception):
    """A model cannot run in a mode now: no driver, no room on the card, or a worker that did not get ready in it."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause: Cause = cause


@dataclass(frozen=True)
class ExecutionMode:
    """One way to run a model, such as on a graphics card or with plain kernels."""

    name: str
    extra_buffers: bool
    description: str
    oldest_kernels: bool = False
    gpu: Literal["none", "whole", "part"] = "none"
    token_seconds: float = 1.0
    """Time per token after which a worker counts as hung; far more than the slowest machine needs."""


GPU_FULL = ExecutionMode("gpu-full", False, "graphics card, the whole model", gpu="whole", token_seconds=0.005)
GPU_PARTIAL = ExecutionMode("gpu-partial", True, "graphics card, as many layers as fit", gpu="part")
CPU_BEST = ExecutionMode("cpu", True, "processor, fastest kernels (repacked weights, AMX where there is one)")
CPU_PLAIN = ExecutionMode("cpu-plain", False, "processor, plain kernels")
CPU_OLDEST = ExecutionMode(
    "cpu-oldest", False, "processor, the oldest kernels of a build for many processors", oldest_kernels=True
)

CPU_MODES = (CPU_BEST, CPU_PLAIN)
PORTABLE_CPU_MODES = (*CPU_MODES, CPU_OLDEST)
"""For builds with a module for each generation of processors, where the chosen one may not suit this processor."""


def cpu_modes() -> tuple[ExecutionMode, ...]:
    """Return the CPU modes of the installed build of llama.cpp, fastest first."""
    found = find_distribution()
    files = (found.files if found else None) or ()
    return PORTABLE_CPU_MODES if any("ggml-cpu-" in file.name for file in files) else CPU_MODES
