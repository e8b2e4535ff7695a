"""What the icon shows, made from what a daemon says of itself. Knows no icon, no HTTP and no clock."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import msgspec

from edgeembed.common.status import CacheStats, DaemonStatus, Demotion, ListedModel, LoadedModel

Theme = Literal["light", "dark"]
"""Of the panel that the icon sits on."""


class State(Enum):
    """What the icon shows. The value is the word for it."""

    READY = "ready"
    BUSY = "busy"
    LOADING = "loading"
    PAUSED = "paused"
    DEGRADED = "degraded"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Child:
    """The daemon that the tray started, if it did."""

    running: bool
    last_line: str = ""
    """What it said last: while a model is fetched it does not answer yet."""
    gave_up: bool = False
    """It ended by itself again and again, or will not start as it is told to."""


@dataclass(frozen=True)
class Seen:
    """What one look at the daemon brought."""

    status: DaemonStatus | None = None
    """None: no daemon of ours answers."""
    problem: str | None = None
    """Why an answer could not be used, such as a missing key or another program on the port."""
    paused: bool | None = None
    """None: this daemon cannot be paused."""
    models: tuple[ListedModel, ...] = ()
    alarm: str | None = None
    """What GET /health said last when it was not well."""
    disk_bytes: int | None = None
    """What the cache takes on disk."""
    child: Child | None = None


@dataclass(frozen=True)
class Day:
    """Requests and texts of one day, added up over the runs of the daemon."""

    date: datetime.date
    since: datetime.time | None = None
    """When counting began, where it was not at midnight."""
    requests: int = 0
    hits: int = 0
    lookups: int = 0
    pid: int = 0
    before: tuple[int, int, int] = (0, 0, 0)
    """What this run of the daemon had counted when it was asked last."""

    @property
    def hit_rate(self) -> float | None:
        """Share of texts that the cache answered, 0 to 1; None when there was none."""
        return self.hits / self.lookups if self.lookups else None

    def after(self, status: DaemonStatus, now: datetime.datetime) -> Day:
        """Add what the daemon counted since it was asked last."""
        counts = _counts(status)
        if now.date() != self.date:
            if self.pid != status.pid:
                return first_day(status, now)
            # What came between the last look and midnight counts for the new day.
            return Day(now.date(), pid=self.pid, before=self.before).after(status, now)
        before = self.before if self.pid == status.pid else (0, 0, 0)
        # A model that was unloaded takes its requests with it.
        more = [max(0, new - old) for new, old in zip(counts, before, strict=True)]
        return Day(
            self.date, self.since, self.requests + more[0], self.hits + more[1], self.lookups + more[2], status.pid, counts
        )


def first_day(status: DaemonStatus, now: datetime.datetime) -> Day:
    """Begin to count: with all that a daemon did which started today, else with nothing."""
    counts = _counts(status)
    if (now - datetime.timedelta(seconds=status.uptime_seconds)).date() == now.date():
        return Day(now.date(), None, *counts, pid=status.pid, before=counts)
    return Day(now.date(), now.time(), pid=status.pid, before=counts)


def _counts(status: DaemonStatus) -> tuple[int, int, int]:
    cache = status.cache or CacheStats()
    hits = cache.memory_hits + cache.disk_hits
    return sum(slot.requests for slot in status.models), hits, hits + cache.misses


@dataclass(frozen=True)
class View:
    """What there is to show."""

    state: State
    line: str
    """One line: the state with its model and device, or what is wrong."""
    reason: str | None = None
    """Why it is not well, in full."""
    model: str | None = None
    """The default model's name."""
    type: str | None = None
    """The default model's type, once it has been loaded."""
    device: str | None = None
    models: tuple[ListedModel, ...] = ()
    """What a client may call the installed models, without prompts and aliases."""
    day: Day | None = None
    cache: CacheStats | None = None
    disk_bytes: int | None = None
    paused: bool | None = None
    answers: bool = False
    """Whether a daemon of ours answers."""
    owned: bool = False
    """Whether the tray started the daemon."""
    demotions: tuple[Demotion, ...] = ()
    digest: str | None = None
    pid: int | None = None
    work: tuple[int, int] = field(default=(0, 0), compare=False)
    """Texts that were computed, and requests that were answered, since the daemon started."""


def read_models(body: Mapping[str, Any]) -> tuple[ListedModel, ...]:
    """Give the models of GET /v1/models: each under its shortest name, without aliases and prompts.

    Raises msgspec.ValidationError for the list of a version whose form differs.
    """
    listed = msgspec.convert(body.get("data", []), tuple[ListedModel, ...])
    models = [each for each in listed if not each.root and not each.input_type]
    with_type = {f"{each.id}:{each.type}" for each in models}
    return tuple(each for each in models if each.id not in with_type)


def look(seen: Seen, before: View | None, now: datetime.datetime) -> View:
    """Say what is to be shown; before: what was shown last."""
    owned = seen.child is not None and seen.child.running
    day = before.day if before else None
    status = seen.status
    if status is None:
        state, reason = _silent(seen)
        what = reason or "stopped"
        model = before.model if before else None
        models = before.models if before else ()
        return View(state, f"edgeembed: {_short(what)}", reason, model, models=models, day=day, owned=owned)
    day = day.after(status, now) if day else first_day(status, now)
    default = next((slot for slot in status.models if slot.default), None)
    work = sum(slot.texts_computed for slot in status.models), sum(slot.requests for slot in status.models)
    same = before is not None and before.pid == status.pid
    state, reason = _judge(status, default, seen)
    if state is State.READY and (
        any(slot.active or slot.texts_waiting for slot in status.models)
        # Short requests come and go between two looks. GET /health computes a row and is no request.
        or (same and before is not None and work[0] > before.work[0] and work[1] > before.work[1])
    ):
        state = State.BUSY
    device = default.device if default else None
    name = status.model.name if status.model else None
    what = f"{state.value}: {_short(reason)}" if reason else state.value
    line = " · ".join(part for part in (name or "edgeembed", device, what) if part)
    return View(
        state=state,
        line=line,
        reason=reason,
        model=name,
        type=default.type if default else None,
        device=device,
        models=seen.models,
        day=day,
        cache=status.cache,
        disk_bytes=seen.disk_bytes,
        paused=seen.paused,
        answers=True,
        owned=owned,
        demotions=tuple(status.engine.demotions) if status.engine else (),
        digest=status.model.digest if status.model else None,
        pid=status.pid,
        work=work,
    )


def _silent(seen: Seen) -> tuple[State, str | None]:
    child = seen.child
    if seen.problem:
        return State.DEGRADED, seen.problem
    if child is None:
        return State.STOPPED, None
    if child.running:
        return State.LOADING, child.last_line or "starting"
    if not child.gave_up:
        return State.LOADING, f"it has ended and starts again: {child.last_line or 'it said nothing'}"
    return State.STOPPED, child.last_line or None


def _judge(status: DaemonStatus, default: LoadedModel | None, seen: Seen) -> tuple[State, str | None]:
    """Say how well the daemon is, and why it is not quite."""
    if default is not None and default.state in ("failed", "stopped"):
        return State.DEGRADED, default.reason or f"{default.name} cannot be served"
    if default is not None and default.state in ("loading", "starting"):
        return State.LOADING, None
    if default is not None and default.state == "restarting":
        return State.LOADING, default.reason or "the worker starts again"
    if seen.paused:
        return State.PAUSED, None
    engine = status.engine
    reasons: Sequence[str | None] = (
        seen.alarm,
        *(f"{each.model}: {each.alarm}" for each in status.vectors if each.alarm),
        _demotion_words(engine.demotions[-1]) if engine and engine.demotions else None,
        status.cache.disk_problem if status.cache and status.cache.disk_problem != "switched off" else None,
        *(f"{slot.name}: {slot.reason or 'failed'}" for slot in status.models if slot.state == "failed"),
    )
    reason = next((each for each in reasons if each), None)
    return (State.DEGRADED, reason) if reason else (State.READY, None)


def _demotion_words(demotion: Demotion) -> str:
    """Say what did not hold; when it is tried again comes first, as the reason may be long."""
    again = f" (again at {time.strftime('%H:%M', time.localtime(demotion.again_at))})" if demotion.again_at else ""
    return f"{demotion.mode} did not hold{again}: {demotion.reason}"


def _short(text: str, most: int = 70) -> str:
    """Give a text that fits a menu's line."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
