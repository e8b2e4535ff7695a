"""Makes the workers of a model smaller when some have died for want of main memory.

What kills them: the kernel (a cgroup's limit, or no memory left on the machine), or an allocation that fails (`ulimit -v`).
The same worker would die again; a smaller one (`context_plan.reduced`) may not. Slower execution modes are tried after that.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from edgeembed.common import cgroups
from edgeembed.engine.context_plan import MOST_REDUCTION
from edgeembed.engine.execution_modes import ExecutionMode
from edgeembed.engine.supervisor.session import WorkerExit

log = logging.getLogger(__name__)

DEATHS_PER_STEP = 2
"""The first may be a coincidence: another program needed the memory for a moment."""


class MemoryGuard:
    """Which workers of a model died for want of memory, and how much smaller the next one is."""

    def __init__(self, kills: Callable[[], int | None] = cgroups.memory_kills) -> None:
        """kills: returns how many processes around this one the kernel has killed for want of memory; None if unknown."""
        self._kills = kills
        self._before: int | None = None
        self._deaths = 0
        self.reduction = 0
        """Steps by which the next worker is smaller."""

    @property
    def can_tell(self) -> bool:
        """Whether a kill for want of memory would be known as such."""
        return self._before is not None

    def begin(self) -> None:
        """Note that a worker is about to start: kills that are counted from now on may be its own."""
        self._before = self._kills()

    def named(self, exit_: WorkerExit) -> WorkerExit:
        """Return how a worker ended, with the cause `out_of_memory` where the kernel killed it for that."""
        now = self._kills() if exit_.cause == "killed" else None
        if now is None or self._before is None or now <= self._before:
            return exit_
        reason = f"{exit_.reason}: killed by the kernel, because its cgroup or the machine had no memory left"
        return dataclasses.replace(exit_, reason=reason, cause="out_of_memory")

    def takes_the_blame(self, exit_: WorkerExit, mode: ExecutionMode) -> bool:
        """Return whether main memory was too small and a smaller worker is still to be tried; count the exit if so.

        If a graphics card is out of memory, the mode is at fault.
        """
        of_main_memory = exit_.from_outside or mode.gpu == "none"
        if exit_.cause != "out_of_memory" or exit_.never_ran or not of_main_memory or self.reduction == MOST_REDUCTION:
            return False
        self._deaths += 1
        if self._deaths == DEATHS_PER_STEP:
            self._deaths = 0
            self.reduction += 1
            log.warning(
                "%d workers died for want of memory: the next one has no bulk lanes and small batches%s (step %d of %d)",
                DEATHS_PER_STEP, ", and a shorter context" if self.reduction > 1 else "", self.reduction, MOST_REDUCTION,
            )  # fmt: skip
        return True
