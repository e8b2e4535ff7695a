"""The device ladder: ways to run a model from the fastest to the safest, which one held last, and when to climb again."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from edgeembed.common.status import Demotion, ModeChange
from edgeembed.engine.causes import Cause
from edgeembed.engine.execution_modes import ExecutionMode, cpu_modes
from edgeembed.engine.machine import build_fingerprint, machine_fingerprint

log = logging.getLogger(__name__)


COOL_DOWN = 60.0
"""Seconds after which a mode that fell for the first time is tried again; twice as many each further time."""
LONGEST_COOL_DOWN = 3600.0
MODE_CHANGES_KEPT = 32


class FallbackPolicy:
    """Where on the ladder one model stands, and why it does not stand higher.

    Falls while loading are kept in `memory`, so that the next start begins on the mode that worked; falls in the middle of
    work last as long as the daemon, because a single text can cause them. Those, and all of a graphics card, have a
    cool-down: drivers come back, and other programs give memory back.
    """

    def __init__(
        self,
        modes: tuple[ExecutionMode, ...] | None = None,
        memory: FallbackMemory | None = None,
        *,
        cool_down: float = COOL_DOWN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """modes: best first; those of the installed build for processors when there are none. clock: Unix seconds."""
        self._modes = modes = modes or cpu_modes()
        self._memory = memory
        self._cool_down = cool_down
        self._clock = clock
        self._demotions: list[Demotion] = [
            demotion for demotion in (memory.recall() if memory else []) if self._counts(demotion)
        ]
        self._temporary_demotions: list[Demotion] = []
        self._times: dict[str, tuple[int, float]] = {}
        """How often each mode has fallen lately, and when last."""
        self._mode_changes: deque[ModeChange] = deque(maxlen=MODE_CHANGES_KEPT)
        self._mode_changes_by_cause: Counter[str] = Counter()

    @property
    def modes(self) -> tuple[ExecutionMode, ...]:
        return self._modes

    @property
    def mode(self) -> ExecutionMode:
        """The highest mode that has not failed; the last one when all have."""
        failed = {demotion.mode for demotion in self.demotions}
        return next((mode for mode in self._modes if mode.name not in failed), self._modes[-1])

    @property
    def demotions(self) -> list[Demotion]:
        """What did not hold, in the order in which it failed."""
        return [*self._demotions, *self._temporary_demotions]

    @property
    def summary(self) -> str:
        """The falls in words."""
        return "; ".join(f"{demotion.mode}: {demotion.reason}" for demotion in self.demotions)

    @property
    def mode_changes(self) -> list[ModeChange]:
        """The latest moves, the oldest first."""
        return list(self._mode_changes)

    @property
    def mode_changes_by_cause(self) -> dict[str, int]:
        """All moves since the daemon started, by "from>to>cause"."""
        return dict(self._mode_changes_by_cause)

    @property
    def exhausted(self) -> bool:
        """Whether every mode has failed."""
        failed = {demotion.mode for demotion in self.demotions}
        return all(mode.name in failed for mode in self._modes)

    # --- down ---------------------------------------------------------------------------------------------------------

    def demote(self, reason: str, *, cause: Cause, temporary: bool) -> None:
        """Leave the current mode. `temporary`: forget it when the daemon ends, or at `forgive`."""
        left = self.mode
        demotion = self._demotion_of(left, reason, cause, temporary=temporary)
        (self._temporary_demotions if temporary else self._demotions).append(demotion)
        self._moved(left.name, self.mode.name, cause, reason)

    def forgive(self) -> None:
        """Take back the falls in the middle of work: their cause is known, and it was not the mode."""
        before = self.mode.name
        for demotion in self._temporary_demotions:
            self._times.pop(demotion.mode, None)
        self._temporary_demotions.clear()
        self._moved(before, self.mode.name, "recovered", "the cause was a text, and not the mode")

    def reset(self) -> None:
        """Begin again on the highest mode."""
        before = self.mode.name
        self._demotions.clear()
        self._temporary_demotions.clear()
        self._moved(before, self.mode.name, "recovered", "no mode held: from the top again")

    def remember(self) -> None:
        """Keep the current mode's place: call it when the mode has shown that it works."""
        if self._memory:
            self._memory.keep([demotion for demotion in self._demotions if demotion.mode != self.mode.name])

    # --- up -----------------------------------------------------------------------------------------------------------

    def due(self) -> ExecutionMode | None:
        """Give the highest mode above the current one whose cool-down is over; None while there is none."""
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
        """Go up to a mode that holds again; those above it stay as they are, and those below count as whole again."""
        before = self.mode.name
        self._forget(mode)
        below = {other.name for other in self._modes[self._modes.index(mode) :]}
        self._demotions = [
            demotion for demotion in self._demotions if demotion.mode not in below or demotion.again_at is None
        ]
        self._temporary_demotions = [demotion for demotion in self._temporary_demotions if demotion.mode not in below]
        self._moved(before, mode.name, "recovered", f"{mode.description}: holds again")

    def stay(self, mode: ExecutionMode, reason: str, *, cause: Cause) -> None:
        """Note that a mode above, tried again, does not hold yet: its cool-down begins anew, and is longer."""
        temporary = all(demotion.mode != mode.name for demotion in self._demotions)
        demotion = self._demotion_of(mode, reason, cause, temporary=True)
        self._forget(mode)
        (self._temporary_demotions if temporary else self._demotions).append(demotion)

    def _demotion_of(self, mode: ExecutionMode, reason: str, cause: Cause, *, temporary: bool) -> Demotion:
        now = self._clock()
        times, last = self._times.get(mode.name, (0, now))
        if now - last > 2 * LONGEST_COOL_DOWN:
            times = 0  # that was long ago
        self._times[mode.name] = times + 1, now
        cools = temporary or mode.gpu != "none"
        wait = min(LONGEST_COOL_DOWN, self._cool_down * 2 ** min(times, 30))
        return Demotion(mode=mode.name, reason=reason, at=now, cause=cause, again_at=now + wait if cools else None)

    def _forget(self, mode: ExecutionMode) -> None:
        self._demotions = [demotion for demotion in self._demotions if demotion.mode != mode.name]
        self._temporary_demotions = [demotion for demotion in self._temporary_demotions if demotion.mode != mode.name]

    def _counts(self, demotion: Demotion) -> bool:
        """Say whether a fall of an earlier run still counts: the last mode is always tried, and cool-downs end."""
        return demotion.mode in {mode.name for mode in self._modes[:-1]} and (
            demotion.again_at is None or self._clock() < demotion.again_at <= self._clock() + LONGEST_COOL_DOWN
        )

    def _moved(self, source: str, target: str, cause: Cause | Literal["recovered"], reason: str) -> None:
        if source != target:
            self._mode_changes.append(ModeChange(source=source, target=target, cause=cause, reason=reason, at=self._clock()))
            self._mode_changes_by_cause[f"{source}>{target}>{cause}"] += 1


class FallbackMemory:
    """A small file that remembers, per machine, llama.cpp build and model, which modes failed and why."""

    def __init__(self, file: Path, model_digest: str) -> None:
        self._file = file
        self._key = f"{machine_fingerprint()} {build_fingerprint()} {model_digest[:16]}"

    def recall(self) -> list[Demotion]:
        """Give the falls kept for this machine, build and model; an unreadable file holds none."""
        try:
            return msgspec.convert(self._load().get(self._key, []), list[Demotion])
        except msgspec.ValidationError:
            return []

    def keep(self, demotions: list[Demotion]) -> None:
        """Replace what is kept. A folder that cannot be written costs the memory, not the daemon."""
        if demotions == self.recall():
            return
        everything = self._load()
        if demotions:
            everything[self._key] = msgspec.to_builtins(demotions)
        else:
            everything.pop(self._key, None)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._file.parent, prefix=".execution-modes-", suffix=".tmp", delete=False
            ) as file:
                json.dump(everything, file, indent=1)
            Path(file.name).replace(self._file)
        except OSError as error:
            log.warning("cannot remember which kernels work in %s: %s", self._file, error)

    def _load(self) -> dict[str, object]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s is not readable and is ignored: %s", self._file, error)
            return {}
        return found if isinstance(found, dict) else {}
