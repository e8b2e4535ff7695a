"""What the icon shows, computed from the daemon's status: pure functions of a poll's result, the last view and the time."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import msgspec

from edgeembed.background.end_reason import reason_in
from edgeembed.common.status import CacheStats, DaemonStatus, Demotion, ListedModel, LoadedModel

Theme = Literal["light", "dark"]
"""Of the panel that shows the icon."""


class IconState(Enum):
    """The states of the icon; the values are their names for users."""

    READY = "ready"
    BUSY = "busy"
    LOADING = "loading"
    PAUSED = "paused"
    DEGRADED = "degraded"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ChildStatus:
    """The daemon that the tray started."""

    running: bool
    last_lines: tuple[str, ...] = ()
    """The end of its log: the progress, while a model is downloaded and it does not respond yet, or why it ended."""
    gave_up: bool = False
    """Whether it is not restarted any more: it crashed repeatedly, or its settings are unusable."""
    exit_status: int | None = None
    """None while it runs."""

    @property
    def reason(self) -> str:
        """Why it ended, or what it does before it responds: the last error in its log, or the last line."""
        return reason_in(self.last_lines, self.exit_status) or (self.last_lines[-1] if self.last_lines else "")


@dataclass(frozen=True)
class PollResult:
    """The result of polling the daemon once."""

    status: DaemonStatus | None = None
    """None: no edgeembed daemon responds."""
    problem: str | None = None
    """Why a response could not be used: a missing key, another program on the port."""
    paused: bool | None = None
    """None: the daemon does not support pausing."""
    models: tuple[ListedModel, ...] = ()
    alarm: str | None = None
    """The problem that GET /health reported last."""
    disk_bytes: int | None = None
    """Size of the cache on disk."""
    child: ChildStatus | None = None
    end_reason: str | None = None
    """Why the daemon that answered before has ended, if it is not the tray's own."""


@dataclass(frozen=True)
class Day:
    """Requests and texts of one day, summed over restarts of the daemon."""

    date: datetime.date
    since: datetime.time | None = None
    """When counting began; None: at midnight."""
    requests: int = 0
    hits: int = 0
    lookups: int = 0
    pid: int = 0
    before: tuple[int, int, int] = (0, 0, 0)
    """The counts of this run of the daemon at the last poll."""

    @property
    def hit_rate(self) -> float | None:
        """Share of texts found in the cache, 0 to 1; None if there were no texts."""
        return self.hits / self.lookups if self.lookups else None

    def after(self, status: DaemonStatus, now: datetime.datetime) -> Day:
        """Return the day with the daemon's counts since the last poll added."""
        counts = _counts(status)
        if now.date() != self.date:
            if self.pid != status.pid:
                return first_day(status, now)
            # Requests between the last poll and midnight count for the new day.
            return Day(now.date(), pid=self.pid, before=self.before).after(status, now)
        before = self.before if self.pid == status.pid else (0, 0, 0)
        # Unloading a model removes its requests from the counts.
        more = [max(0, new - old) for new, old in zip(counts, before, strict=True)]
        return Day(
            self.date, self.since, self.requests + more[0], self.hits + more[1], self.lookups + more[2], status.pid, counts
        )


def first_day(status: DaemonStatus, now: datetime.datetime) -> Day:
    """Return the first counts of a day: all of a daemon that started today, else none."""
    counts = _counts(status)
    if (now - datetime.timedelta(seconds=status.uptime_seconds)).date() == now.date():
        return Day(now.date(), None, *counts, pid=status.pid, before=counts)
    return Day(now.date(), now.time(), pid=status.pid, before=counts)


def _counts(status: DaemonStatus) -> tuple[int, int, int]:
    cache = status.cache or CacheStats()
    hits = cache.memory_hits + cache.disk_hits + cache.shared_hits
    return sum(model.requests for model in status.models), hits, hits + cache.misses


@dataclass(frozen=True)
class View:
    """What the icon and its menu show."""

    state: IconState
    line: str
    """One line: model, device and state, or the problem."""
    reason: str | None = None
    """The problem in full."""
    model: str | None = None
    """The default model's name."""
    type: str | None = None
    """The default model's type; None until it is loaded."""
    device: str | None = None
    models: tuple[ListedModel, ...] = ()
    """The installed models, without aliases and names with prompts."""
    day: Day | None = None
    cache: CacheStats | None = None
    disk_bytes: int | None = None
    paused: bool | None = None
    answers: bool = False
    """Whether an edgeembed daemon responds."""
    owned: bool = False
    """Whether the tray started the daemon."""
    demotions: tuple[Demotion, ...] = ()
    digest: str | None = None
    pid: int | None = None
    work: tuple[int, int] = field(default=(0, 0), compare=False)
    """Computed texts and answered requests since the daemon started."""


def read_models(body: Mapping[str, Any]) -> tuple[ListedModel, ...]:
    """Return the models of GET /v1/models: each once, as NAME:TYPE, without aliases and prompts.

    A name alone means another type once another is the default, so it is no label; a file that is in no folder of models
    has no other.

    Raises msgspec.ValidationError for the format of an incompatible version.
    """
    listed = msgspec.convert(body.get("data", []), tuple[ListedModel, ...])
    models = [each for each in listed if not each.root and not each.input_type]
    names = {each.id for each in models}
    return tuple(each for each in models if f"{each.id}:{each.type}" not in names)


def make_view(polled: PollResult, before: View | None, now: datetime.datetime) -> View:
    """Return what to show for a poll's result. before: the last view, whose models and counts are kept."""
    owned = polled.child is not None and polled.child.running
    day = before.day if before else None
    status = polled.status
    if status is None:
        state, reason = _without_daemon(polled)
        if state is IconState.STOPPED and reason is None and before is not None and before.state is IconState.STOPPED:
            reason = before.reason
        what = f"stopped: {reason}" if reason and state is IconState.STOPPED else reason or "stopped"
        models = before.models if before else ()
        name = before.model if before else None
        return View(state, f"edgeembed: {_short(what)}", reason, name, models=models, day=day, owned=owned)
    day = day.after(status, now) if day else first_day(status, now)
    default = next((model for model in status.models if model.default), None)
    work = sum(model.texts_computed for model in status.models), sum(model.requests for model in status.models)
    same = before is not None and before.pid == status.pid
    state, reason = _condition(status, default, polled)
    if state is IconState.READY and (
        any(model.active or model.texts_waiting for model in status.models)
        # Short requests begin and end between two polls. GET /health computes a row but is not a request.
        or (same and before is not None and work[0] > before.work[0] and work[1] > before.work[1])
    ):
        state = IconState.BUSY
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
        models=polled.models,
        day=day,
        cache=status.cache,
        disk_bytes=polled.disk_bytes,
        paused=polled.paused,
        answers=True,
        owned=owned,
        demotions=tuple(status.engine.demotions) if status.engine else (),
        digest=status.model.digest if status.model else None,
        pid=status.pid,
        work=work,
    )


def _without_daemon(polled: PollResult) -> tuple[IconState, str | None]:
    child = polled.child
    if polled.problem:
        return IconState.DEGRADED, polled.problem
    if child is None:
        return IconState.STOPPED, polled.end_reason
    if child.running:
        return IconState.LOADING, child.last_lines[-1] if child.last_lines else "starting"
    if not child.gave_up:
        return IconState.LOADING, f"restarting after: {child.reason or 'no output'}"
    return IconState.STOPPED, child.reason or None


def _condition(status: DaemonStatus, default: LoadedModel | None, polled: PollResult) -> tuple[IconState, str | None]:
    """Return the state of a daemon that responds, and the reason unless all is well."""
    if status.starting:
        return IconState.LOADING, status.starting
    if default is not None and default.state in ("failed", "stopped"):
        return IconState.DEGRADED, default.reason or f"{default.name} cannot be served"
    if default is not None and default.state in ("loading", "starting"):
        return IconState.LOADING, None
    if default is not None and default.state == "restarting":
        return IconState.LOADING, default.reason or "the worker is restarting"
    if polled.paused:
        return IconState.PAUSED, None
    engine = status.engine
    reasons: Sequence[str | None] = (
        polled.alarm,
        *(f"{each.model}: {each.alarm}" for each in status.vectors if each.alarm),
        _demotion_text(engine.demotions[-1]) if engine and engine.demotions else None,
        status.cache.disk_problem if status.cache and status.cache.disk_problem != "switched off" else None,
        *(f"{model.name}: {model.reason or 'failed'}" for model in status.models if model.state == "failed"),
    )
    reason = next((each for each in reasons if each), None)
    return (IconState.DEGRADED, reason) if reason else (IconState.READY, None)


def _demotion_text(demotion: Demotion) -> str:
    """Describe a demotion; the time of the next attempt comes before the reason, which may be long."""
    again = f" (retry at {time.strftime('%H:%M', time.localtime(demotion.again_at))})" if demotion.again_at else ""
    return f"{demotion.mode} failed{again}: {demotion.reason}"


def _short(text: str, limit: int = 70) -> str:
    """Return a text shortened to fit a line of the menu."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"
