"""The fallback policy: in which execution mode a model runs, which modes failed and why, and when to try them again."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from edgeembed.common.backoff import Backoff
from edgeembed.common.files import read_json_or_warn, write_json
from edgeembed.common.status import Demotion, ModeChange
from edgeembed.engine.causes import Cause
from edgeembed.engine.execution_modes import ExecutionMode, cpu_modes
from edgeembed.engine.machine import build_fingerprint, machine_fingerprint

log = logging.getLogger(__name__)


COOL_DOWN = 60.0
"""Seconds until a mode that failed for the first time is tried again; doubled with each further failure."""
LONGEST_COOL_DOWN = 3600.0
MODE_CHANGES_KEPT = 32


class FallbackPolicy:
    """The execution mode of one model, and why it is not a faster one.

    Demotions while loading are kept in `memory`, so that the next start begins in the mode that worked. Those while serving
    are forgotten when the daemon ends, because a single text can cause them. They, and all demotions from a graphics card,
    have a cool-down: drivers are repaired, and other programs free memory.
    """

    def __init__(
        self,
        modes: tuple[ExecutionMode, ...] | None = None,
        memory: FallbackMemory | None = None,
        *,
        cool_down: float = COOL_DOWN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """modes: fastest first; None for the CPU modes of the installed build. clock: returns Unix seconds."""
        self._modes = modes = modes or cpu_modes()
        self._memory = memory
        self._cool_downs = Backoff(first=cool_down, longest=LONGEST_COOL_DOWN)
        self._clock = clock
        self._demotions: list[Demotion] = [
            demotion for demotion in (memory.load() if memory else []) if self._still_counts(demotion)
        ]
        self._temporary_demotions: list[Demotion] = []
        self._failures: dict[str, tuple[int, float]] = {}
        """By mode: how often it failed lately, and when it last did."""
        self._mode_changes: deque[ModeChange] = deque(maxlen=MODE_CHANGES_KEPT)
        self._mode_changes_by_cause: Counter[str] = Counter()

    @property
    def modes(self) -> tuple[ExecutionMode, ...]:
        return self._modes

    @property
    def mode(self) -> ExecutionMode:
        """The fastest mode that has not failed; the last one when all have."""
        failed = {demotion.mode for demotion in self.demotions}
        return next((mode for mode in self._modes if mode.name not in failed), self._modes[-1])

    @property
    def demotions(self) -> list[Demotion]:
        """The modes that failed, in the order in which they were left."""
        return [*self._demotions, *self._temporary_demotions]

    @property
    def summary(self) -> str:
        """All demotions with their reasons, for people."""
        return "; ".join(f"{demotion.mode}: {demotion.reason}" for demotion in self.demotions)

    @property
    def mode_changes(self) -> list[ModeChange]:
        """The latest mode changes, oldest first."""
        return list(self._mode_changes)

    @property
    def mode_changes_by_cause(self) -> dict[str, int]:
        """Number of mode changes since the daemon started, by "from>to>cause"."""
        return dict(self._mode_changes_by_cause)

    @property
    def exhausted(self) -> bool:
        """Whether every mode has failed."""
        failed = {demotion.mode for demotion in self.demotions}
        return all(mode.name in failed for mode in self._modes)

    # --- down ---------------------------------------------------------------------------------------------------------

    def demote(self, reason: str, *, cause: Cause, temporary: bool) -> None:
        """Leave the current mode. temporary: until the daemon ends, or `forgive` is called."""
        left = self.mode
        demotion = self._demotion_of(left, reason, cause, temporary=temporary)
        (self._temporary_demotions if temporary else self._demotions).append(demotion)
        self._record_change(left.name, self.mode.name, cause, reason)

    def forgive(self) -> None:
        """Undo the temporary demotions: a text has turned out to be their cause."""
        before = self.mode.name
        for demotion in self._temporary_demotions:
            self._failures.pop(demotion.mode, None)
        self._temporary_demotions.clear()
        self._record_change(before, self.mode.name, "recovered", "a text was the cause, not the mode")

    def reset(self) -> None:
        """Undo all demotions, to begin with the fastest mode again."""
        before = self.mode.name
        self._demotions.clear()
        self._temporary_demotions.clear()
        self._record_change(before, self.mode.name, "recovered", "every mode failed: all are tried again")

    def remember(self) -> None:
        """Save the demotions that led to the current mode; to be called when a worker is ready in it."""
        if self._memory:
            self._memory.save([demotion for demotion in self._demotions if demotion.mode != self.mode.name])

    # --- up -----------------------------------------------------------------------------------------------------------

    def due(self) -> ExecutionMode | None:
        """Return the fastest mode above the current one whose cool-down is over; None when there is none."""
        now = self._clock()
        for mode in self._modes:
            if mode.name == self.mode.name:
                return None
            if all(
                demotion.again_at is not None and demotion.again_at <= now
                for demotion in self.demotions
                if demotion.mode == mode.name
            ):
                return mode
        return None

    def promote(self, mode: ExecutionMode) -> None:
        """Return to a mode that works again. Demotions from slower modes end too, if they have a cool-down."""
        before = self.mode.name
        self._forget(mode)
        below = {other.name for other in self._modes[self._modes.index(mode) :]}
        self._demotions = [
            demotion for demotion in self._demotions if demotion.mode not in below or demotion.again_at is None
        ]
        self._temporary_demotions = [demotion for demotion in self._temporary_demotions if demotion.mode not in below]
        self._record_change(before, mode.name, "recovered", f"{mode.description}: works again")

    def stay(self, mode: ExecutionMode, reason: str, *, cause: Cause) -> None:
        """Note that a faster mode was tried and does not work yet: its cool-down restarts, and is longer."""
        temporary = all(demotion.mode != mode.name for demotion in self._demotions)
        demotion = self._demotion_of(mode, reason, cause, temporary=True)
        self._forget(mode)
        (self._temporary_demotions if temporary else self._demotions).append(demotion)

    def _demotion_of(self, mode: ExecutionMode, reason: str, cause: Cause, *, temporary: bool) -> Demotion:
        now = self._clock()
        failures, last = self._failures.get(mode.name, (0, now))
        if now - last > 2 * LONGEST_COOL_DOWN:
            failures = 0  # too long ago to count
        self._failures[mode.name] = failures + 1, now
        cools = temporary or mode.gpu != "none"
        wait = self._cool_downs.pause(failures + 1)
        return Demotion(mode=mode.name, reason=reason, at=now, cause=cause, again_at=now + wait if cools else None)

    def _forget(self, mode: ExecutionMode) -> None:
        self._demotions = [demotion for demotion in self._demotions if demotion.mode != mode.name]
        self._temporary_demotions = [demotion for demotion in self._temporary_demotions if demotion.mode != mode.name]

    def _still_counts(self, demotion: Demotion) -> bool:
        """Return whether a demotion of an earlier run still counts: the last mode is always tried, and cool-downs end."""
        return demotion.mode in {mode.name for mode in self._modes[:-1]} and (
            demotion.again_at is None or self._clock() < demotion.again_at <= self._clock() + LONGEST_COOL_DOWN
        )

    def _record_change(self, source: str, target: str, cause: Cause | Literal["recovered"], reason: str) -> None:
        if source != target:
            self._mode_changes.append(ModeChange(source=source, target=target, cause=cause, reason=reason, at=self._clock()))
            self._mode_changes_by_cause[f"{source}>{target}>{cause}"] += 1


class FallbackMemory:
    """The file of demotions, by machine, build of llama.cpp and model."""

    def __init__(self, file: Path, model_digest: str) -> None:
        self._file = file
        self._key = f"{machine_fingerprint()} {build_fingerprint()} {model_digest[:16]}"

    def load(self) -> list[Demotion]:
        """Return the demotions on this machine with this build and model; none when the file cannot be read."""
        try:
            return msgspec.convert(self._read().get(self._key, []), list[Demotion])
        except msgspec.ValidationError:
            return []

    def save(self, demotions: list[Demotion]) -> None:
        """Replace the demotions; where the file cannot be written, log a warning."""
        if demotions == self.load():
            return
        everything = self._read()
        if demotions:
            everything[self._key] = msgspec.to_builtins(demotions)
        else:
            everything.pop(self._key, None)
        try:
            write_json(self._file, everything)
        except OSError as error:
            log.warning("cannot remember in %s which execution modes work: %s", self._file, error)

    def _read(self) -> dict[str, object]:
        return read_json_or_warn(self._file, dict[str, object], "all execution modes are tried again") or {}
