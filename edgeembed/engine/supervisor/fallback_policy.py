"""The device ladder: ways to run a model from the fastest to the safest, which one held last, and when to climb again."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeembed.engine.causes import cause_of
from edgeembed.engine.execution_modes import Rung, cpu_ladder
from edgeembed.engine.interface import RungFall, RungMove
from edgeembed.engine.machine import build_fingerprint, machine_fingerprint

log = logging.getLogger(__name__)


COOL_DOWN = 60.0
"""Seconds after which a rung that fell for the first time is tried again; twice as many each further time."""
LONGEST_COOL_DOWN = 3600.0
MOVES_KEPT = 32


class Ladder:
    """Where on the ladder one model stands, and why it does not stand higher.

    Falls while loading are kept in `memory`, so that the next start begins on the rung that worked; falls in the middle of
    work last as long as the daemon, because a single text can cause them. Those, and all of a graphics card, have a
    cool-down: drivers come back, and other programs give memory back.
    """

    def __init__(
        self,
        rungs: tuple[Rung, ...] | None = None,
        memory: LadderMemory | None = None,
        *,
        cool_down: float = COOL_DOWN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """rungs: best first; those of the installed build for processors when there are none. clock: Unix seconds."""
        self._rungs = rungs = rungs or cpu_ladder()
        self._memory = memory
        self._cool_down = cool_down
        self._clock = clock
        self._falls: list[RungFall] = [fall for fall in (memory.recall() if memory else []) if self._counts(fall)]
        self._passing_falls: list[RungFall] = []
        self._times: dict[str, tuple[int, float]] = {}
        """How often each rung has fallen lately, and when last."""
        self._moves: deque[RungMove] = deque(maxlen=MOVES_KEPT)
        self._moves_by_cause: Counter[str] = Counter()

    @property
    def rungs(self) -> tuple[Rung, ...]:
        return self._rungs

    @property
    def rung(self) -> Rung:
        """The highest rung that has not failed; the last one when all have."""
        failed = {fall.rung for fall in self.falls}
        return next((rung for rung in self._rungs if rung.name not in failed), self._rungs[-1])

    @property
    def falls(self) -> list[RungFall]:
        """What did not hold, in the order in which it failed."""
        return [*self._falls, *self._passing_falls]

    @property
    def told(self) -> str:
        """The falls in words."""
        return "; ".join(f"{fall.rung}: {fall.reason}" for fall in self.falls)

    @property
    def moves(self) -> list[RungMove]:
        """The latest moves, the oldest first."""
        return list(self._moves)

    @property
    def moves_by_cause(self) -> dict[str, int]:
        """All moves since the daemon started, by "from>to>cause"."""
        return dict(self._moves_by_cause)

    @property
    def exhausted(self) -> bool:
        """Whether every rung has failed."""
        failed = {fall.rung for fall in self.falls}
        return all(rung.name in failed for rung in self._rungs)

    # --- down ---------------------------------------------------------------------------------------------------------

    def fall(self, reason: str, *, passing: bool) -> None:
        """Leave the current rung. `passing`: forget it when the daemon ends, or at `forgive`."""
        left = self.rung
        fall = self._fall_of(left, reason, passing=passing)
        (self._passing_falls if passing else self._falls).append(fall)
        self._moved(left.name, self.rung.name, fall.cause, reason)

    def forgive(self) -> None:
        """Take back the falls in the middle of work: their cause is known, and it was not the rung."""
        before = self.rung.name
        for fall in self._passing_falls:
            self._times.pop(fall.rung, None)
        self._passing_falls.clear()
        self._moved(before, self.rung.name, "recovered", "the cause was a text, and not the rung")

    def reset(self) -> None:
        """Begin again on the highest rung."""
        before = self.rung.name
        self._falls.clear()
        self._passing_falls.clear()
        self._moved(before, self.rung.name, "recovered", "no rung held: from the top again")

    def remember(self) -> None:
        """Keep the current rung's place: call it when the rung has shown that it works."""
        if self._memory:
            self._memory.keep([fall for fall in self._falls if fall.rung != self.rung.name])

    # --- up -----------------------------------------------------------------------------------------------------------

    def due(self) -> Rung | None:
        """Give the highest rung above the current one whose cool-down is over; None while there is none."""
        now = self._clock()
        for rung in self._rungs:
            if rung.name == self.rung.name:
                return None
            if all(fall.again_at is not None and fall.again_at <= now for fall in self.falls if fall.rung == rung.name):
                return rung
        return None

    def climb(self, rung: Rung) -> None:
        """Go up to a rung that holds again; those above it stay as they are, and those below count as whole again."""
        before = self.rung.name
        self._forget(rung)
        below = {other.name for other in self._rungs[self._rungs.index(rung) :]}
        self._falls = [fall for fall in self._falls if fall.rung not in below or fall.again_at is None]
        self._passing_falls = [fall for fall in self._passing_falls if fall.rung not in below]
        self._moved(before, rung.name, "recovered", f"{rung.description}: holds again")

    def stay(self, rung: Rung, reason: str) -> None:
        """Note that a rung above, tried again, does not hold yet: its cool-down begins anew, and is longer."""
        passing = all(fall.rung != rung.name for fall in self._falls)
        fall = self._fall_of(rung, reason, passing=True)
        self._forget(rung)
        (self._passing_falls if passing else self._falls).append(fall)

    def _fall_of(self, rung: Rung, reason: str, *, passing: bool) -> RungFall:
        now = self._clock()
        times, last = self._times.get(rung.name, (0, now))
        if now - last > 2 * LONGEST_COOL_DOWN:
            times = 0  # that was long ago
        self._times[rung.name] = times + 1, now
        cools = passing or rung.gpu != "none"
        wait = min(LONGEST_COOL_DOWN, self._cool_down * 2 ** min(times, 30))
        return RungFall(
            rung=rung.name, reason=reason, at=now, cause=cause_of(reason), again_at=now + wait if cools else None
        )

    def _forget(self, rung: Rung) -> None:
        self._falls = [fall for fall in self._falls if fall.rung != rung.name]
        self._passing_falls = [fall for fall in self._passing_falls if fall.rung != rung.name]

    def _counts(self, fall: RungFall) -> bool:
        """Say whether a fall of an earlier run still counts: the last rung is always tried, and cool-downs end."""
        return fall.rung in {rung.name for rung in self._rungs[:-1]} and (
            fall.again_at is None or self._clock() < fall.again_at <= self._clock() + LONGEST_COOL_DOWN
        )

    def _moved(self, source: str, target: str, cause: str, reason: str) -> None:
        if source != target:
            self._moves.append(RungMove(source=source, target=target, cause=cause, reason=reason, at=self._clock()))
            self._moves_by_cause[f"{source}>{target}>{cause}"] += 1


class LadderMemory:
    """A small file that remembers, per machine, llama.cpp build and model, which rungs failed and why."""

    def __init__(self, file: Path, model_digest: str) -> None:
        self._file = file
        self._key = f"{machine_fingerprint()} {build_fingerprint()} {model_digest[:16]}"

    def recall(self) -> list[RungFall]:
        """Give the falls kept for this machine, build and model; an unreadable file holds none."""
        try:
            return msgspec.convert(self._load().get(self._key, []), list[RungFall])
        except msgspec.ValidationError:
            return []

    def keep(self, falls: list[RungFall]) -> None:
        """Replace what is kept. A folder that cannot be written costs the memory, not the daemon."""
        if falls == self.recall():
            return
        everything = self._load()
        if falls:
            everything[self._key] = msgspec.to_builtins(falls)
        else:
            everything.pop(self._key, None)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._file.parent, prefix=".ladder-", suffix=".tmp", delete=False
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
