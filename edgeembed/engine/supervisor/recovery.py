"""What follows from a worker's exit: what is to blame for it, and how soon the next worker starts.

To blame is the execution mode, which is demoted; or a text, which fails; or the size of main memory, for which the next
worker is smaller; or nothing here, as when somebody kills a worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeembed.common.backoff import Backoff
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.memory_guard import MemoryGuard
from edgeembed.engine.supervisor.pending import PendingTexts
from edgeembed.engine.supervisor.session import WorkerExit

KILLS_WHILE_LOADING = 3
"""Kills from outside in a row, before a worker is ready, that count against the mode: a slower one needs less memory."""
STABLE_SECONDS = 10.0
"""A worker that was ready for this long, or has computed something, is replaced at once; otherwise the pause doubles."""
RESTART_PAUSES = Backoff(first=0.1, longest=30.0)
EXITS_UNTIL_LONGEST_PAUSE = 10
LONGEST_PAUSE_WHEN_KILLED = 2.0
"""The same where starting is not what fails: somebody killed it, or it was ready. The next text should not wait for long."""


@dataclass(frozen=True)
class Verdict:
    """What follows from an exit. final: no other worker can help. reason: why a worker is restarted, or why not."""

    reason: str
    final: bool = False


class Recovery:
    """Judges the exits of a model's workers, one after the other."""

    def __init__(self, policy: FallbackPolicy, memory_guard: MemoryGuard, pending: PendingTexts) -> None:
        self._policy = policy
        self._memory_guard = memory_guard
        self._pending = pending
        self._early_exits = 0
        """Workers in a row that ended before they had computed anything."""
        self._kills_while_loading = 0

    def judge(self, exit_: WorkerExit, *, worked: bool) -> Verdict:
        """Demote the mode or fail texts where they are to blame. worked: a worker of this model has been ready before."""
        verdict = Verdict(exit_.reason)
        if exit_.fatal:
            return Verdict(exit_.reason, final=True)
        if exit_.never_ran and worked:
            return verdict  # the mode is not to blame: it has worked, and is tried until a worker can start again
        if exit_.cause == "replaced":
            return verdict  # nor here: whether it is still the same model is decided before the next worker starts
        if self._memory_guard.takes_the_blame(exit_, self._policy.mode):
            self._pending.blame(exit_.suspects, exit_.reason, from_outside=True)
            return verdict
        if exit_.while_loading:
            return self._judge_failed_load(exit_, worked=worked)
        self._kills_while_loading = 0
        if exit_.unreadable:
            self._pending.condemn(exit_.unreadable, exit_.reason)
        elif self._pending.blame(exit_.suspects, exit_.reason, from_outside=exit_.from_outside):
            self._policy.forgive()
        elif not exit_.from_outside:
            self._policy.demote(exit_.reason, cause=exit_.cause, temporary=True)
            if self._policy.exhausted:
                self._policy.forgive()
        return verdict

    def _judge_failed_load(self, exit_: WorkerExit, *, worked: bool) -> Verdict:
        self._kills_while_loading = self._kills_while_loading + 1 if exit_.from_outside else 0
        # One kill from outside says nothing about the mode. Several do: on a card, or if they may be for want of memory.
        on_processor = self._policy.mode.gpu == "none"
        innocent = on_processor and exit_.cause == "killed" and self._memory_guard.can_tell
        if exit_.from_outside and (innocent or self._kills_while_loading < KILLS_WHILE_LOADING):
            return Verdict(exit_.reason)
        passing = exit_.from_outside or (on_processor and exit_.cause == "out_of_memory")
        self._policy.demote(exit_.reason, cause=exit_.cause, temporary=passing)
        self._kills_while_loading = 0
        if not self._policy.exhausted:
            return Verdict(exit_.reason)
        verdict = Verdict(self._policy.summary, final=not worked)
        if worked:  # on this machine, before: begin with the fastest mode again, later
            self._policy.reset()
            self._early_exits = max(self._early_exits, EXITS_UNTIL_LONGEST_PAUSE)
        return verdict

    def pause_after(self, exit_: WorkerExit) -> float:
        """Return the seconds until the next worker starts: they grow only while workers do not get to work."""
        if exit_.served or exit_.uptime >= STABLE_SECONDS:
            self._early_exits = 0
            return 0.0
        self._early_exits += 1
        pause = RESTART_PAUSES.pause(self._early_exits)
        start_failed = exit_.while_loading and exit_.cause != "killed"
        return pause if start_failed else min(pause, LONGEST_PAUSE_WHEN_KILLED)
