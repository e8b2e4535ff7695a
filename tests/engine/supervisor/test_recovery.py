"""How soon the next worker starts."""

from __future__ import annotations

from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.memory_guard import MemoryGuard
from edgeembed.engine.supervisor.pending import PendingTexts
from edgeembed.engine.supervisor.recovery import LONGEST_PAUSE_WHEN_KILLED, Recovery
from edgeembed.engine.supervisor.session import WorkerExit


def test_pauses_grow_only_while_workers_do_not_get_to_work() -> None:
    recovery = Recovery(FallbackPolicy(), MemoryGuard(), PendingTexts(lambda _id: None))
    failed = WorkerExit("no memory", "out_of_memory", while_loading=True, from_outside=False)
    growing = [recovery.pause_after(failed) for _ in range(12)]
    assert growing[:3] == [0.1, 0.2, 0.4] and growing[-1] == 30
    killed = WorkerExit("SIGKILL", "killed", while_loading=True, from_outside=True)
    idle = WorkerExit("SIGSEGV", "crash", while_loading=False, from_outside=False, uptime=0.1)
    assert recovery.pause_after(killed) == recovery.pause_after(idle) == LONGEST_PAUSE_WHEN_KILLED
    assert recovery.pause_after(WorkerExit("SIGSEGV", "crash", while_loading=False, from_outside=False, served=True)) == 0
    assert recovery.pause_after(killed) == 0.1, "what it had computed ended the series"
    assert recovery.pause_after(WorkerExit("SIGSEGV", "crash", while_loading=False, from_outside=False, uptime=10)) == 0
