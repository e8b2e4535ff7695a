"""Execution modes: ways to run a model, from the fastest to the safest."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

from edgeembed.engine.causes import Cause


class ModeUnavailableError(Exception):
    """A model cannot run in a mode now: no driver, no room on the card, or a worker that did not get ready in it."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause: Cause = cause


@dataclass(frozen=True)
class ExecutionMode:
    """One way to run a model."""

    name: str
    extra_buffers: bool
    description: str
    oldest_kernels: bool = False
    gpu: Literal["none", "whole", "part"] = "none"
    token_seconds: float = 1.0
    """What a token may take before the worker counts as hung: far more than it ever takes, on the slowest machine."""


GPU_FULL = ExecutionMode("gpu-full", False, "graphics card, the whole model", gpu="whole", token_seconds=0.005)


GPU_PARTIAL = ExecutionMode("gpu-partial", True, "graphics card, as many layers as fit", gpu="part")


CPU_BEST = ExecutionMode("cpu", True, "processor, fastest kernels (repacked weights, AMX where there is one)")


CPU_PLAIN = ExecutionMode("cpu-plain", False, "processor, plain kernels")


CPU_OLDEST = ExecutionMode(
    "cpu-oldest", False, "processor, the oldest kernels of a build for many processors", oldest_kernels=True
)


CPU_MODES = (CPU_BEST, CPU_PLAIN)


PORTABLE_CPU_MODES = (*CPU_MODES, CPU_OLDEST)
"""Where the build has a module for each generation of processors: the one that was chosen may be wrong about this one."""


def cpu_modes() -> tuple[ExecutionMode, ...]:
    """Give the modes that the installed build of llama.cpp has."""
    try:
        files = distribution("llama-cpp-python").files or ()
    except PackageNotFoundError:
        files = ()
    return PORTABLE_CPU_MODES if any("ggml-cpu-" in file.name for file in files) else CPU_MODES
