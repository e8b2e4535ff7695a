"""What follows from the exits of workers, without workers."""

from __future__ import annotations

import pytest

from edgeembed.engine.execution_modes import CPU_BEST, CPU_PLAIN
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.memory_guard import MemoryGuard
from edgeembed.engine.supervisor.pending import PendingTexts
from edgeembed.engine.supervisor.recovery import LONGEST_PAUSE_WHEN_KILLED, Recovery, Verdict
from edgeembed.engine.supervisor.session import WorkerExit


def recovery_of(policy: FallbackPolicy) -> Recovery:
    return Recovery(policy, MemoryGuard(), PendingTexts(lambda _id: None))


@pytest.mark.parametrize("worked", [False, True])
def test_when_every_mode_has_failed_a_model_that_worked_before_is_tried_again_later(worked: bool) -> None:
    policy = FallbackPolicy((CPU_BEST, CPU_PLAIN))
    recovery = recovery_of(policy)
    failed = WorkerExit("a broken build", "crash", while_loading=True, from_outside=False)
    assert recovery.judge(failed, worked=worked) == Verdict("a broken build")
    assert policy.mode is CPU_PLAIN and recovery.pause_after(failed) == 0.1
    verdict = recovery.judge(failed, worked=worked)
    assert verdict == Verdict("cpu: a broken build; cpu-plain: a broken build", final=not worked)
    if worked:
        assert policy.mode is CPU_BEST and recovery.pause_after(failed) == 30


def test_pauses_grow_only_while_workers_do_not_get_to_work() -> None:
    recovery = recovery_of(FallbackPolicy())
    failed = WorkerExit("no memory", "out_of_memory", while_loading=True, from_outside=False)
    growing = [recovery.pause_after(failed) for _ in range(12)]
    assert growing[:3] == [0.1, 0.2, 0.4] and growing[-1] == 30
    killed = WorkerExit("SIGKILL", "killed", while_loading=True, from_outside=True)
    idle = WorkerExit("SIGSEGV", "crash", while_loading=False, from_outside=False, uptime=0.1)
    assert recovery.pause_after(killed) == recovery.pause_after(idle) == LONGEST_PAUSE_WHEN_KILLED
    assert recovery.pause_after(WorkerExit("SIGSEGV", "crash", while_loading=False, from_outside=False, served=True)) == 0
    assert recovery.pause_after(killed) == 0.1, "what it had computed ended the series"
    assert recovery.pause_after(WorkerExit("SIGSEGV", "crash", while_loading=False, from_outside=False, uptime=10)) == 0
