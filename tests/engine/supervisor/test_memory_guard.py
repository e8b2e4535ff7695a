"""When a worker becomes smaller."""

from __future__ import annotations

from edgeembed.engine.causes import Cause
from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL
from edgeembed.engine.supervisor.memory_guard import MemoryGuard
from edgeembed.engine.supervisor.session import WorkerExit


def ended(cause: Cause, *, from_outside: bool = False, never_ran: bool = False) -> WorkerExit:
    return WorkerExit("ended", cause, while_loading=False, from_outside=from_outside, never_ran=never_ran)


def test_a_kill_has_the_cause_that_the_kernel_counts() -> None:
    counted: list[int | None] = [4]
    guard = MemoryGuard(lambda: counted[0])
    killed = ended("killed", from_outside=True)
    assert not guard.can_tell and guard.named(killed) is killed
    guard.begin()
    assert guard.can_tell and guard.named(killed) is killed, "somebody else killed it"
    counted[0] = 5
    assert guard.named(killed).cause == "out_of_memory"
    assert guard.named(ended("crash")).cause == "crash"
    guard.begin()
    assert guard.named(killed) is killed, "that was another worker"
    counted[0] = None
    guard.begin()
    assert not guard.can_tell and guard.named(killed) is killed


def test_every_second_exit_makes_the_worker_smaller_until_it_is_the_smallest() -> None:
    guard = MemoryGuard(lambda: None)
    seen = []
    while guard.takes_the_blame(ended("out_of_memory"), CPU_BEST):
        seen.append(guard.reduction)
    assert seen == [0, 1, 1, 2, 2, 3]
    assert guard.reduction == 3


def test_other_deaths_do_not_count() -> None:
    guard = MemoryGuard(lambda: None)
    for exit_, mode in (
        (ended("killed", from_outside=True), CPU_BEST),
        (ended("crash"), CPU_BEST),
        (ended("out_of_memory", from_outside=True, never_ran=True), CPU_BEST),
        (ended("out_of_memory"), GPU_FULL),  # the card's memory
    ):
        assert not any(guard.takes_the_blame(exit_, mode) for _ in range(4))
    assert guard.reduction == 0
    assert guard.takes_the_blame(ended("out_of_memory", from_outside=True), GPU_FULL), "the kernel kills for main memory"
