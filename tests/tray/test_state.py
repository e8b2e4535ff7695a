"""What the icon shows for a daemon's status: states, texts, the counts of a day, notifications."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest

from edgeembed.common.status import DaemonStatus, ListedModel
from edgeembed.tray.notifications import LONG_START_SECONDS, notifications
from edgeembed.tray.state import ChildStatus, IconState, PollResult, View, first_day, make_view, read_models
from tests.tray.states import NOON, body, loaded, polled, view

DEMOTION = {"mode": "gpu", "reason": "out of memory", "at": 1.0}


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "state", "says"),
    [
        (polled(), IconState.READY, "alpha · cpu · ready"),
        (polled(loaded(active=1)), IconState.BUSY, "alpha · cpu · busy"),
        (polled(loaded(texts_waiting=9)), IconState.BUSY, "busy"),
        (polled(loaded(state="loading", device=None)), IconState.LOADING, "alpha · loading"),
        (polled(loaded(state="restarting", reason="it died")), IconState.LOADING, "it died"),
        (polled(loaded(state="failed", reason="no mode holds")), IconState.DEGRADED, "no mode holds"),
        (polled(paused=True), IconState.PAUSED, "alpha · cpu · paused"),
        (polled(loaded(state="failed"), paused=True), IconState.DEGRADED, "cannot be served"),
        (polled(engine={"state": "ready", "demotions": [DEMOTION]}), IconState.DEGRADED, "gpu failed: out of memory"),
        (polled(alarm="vectors are unlike the first"), IconState.DEGRADED, "vectors are unlike the first"),
        (polled(vectors=[{"model": "alpha", "alarm": "drifts"}]), IconState.DEGRADED, "alpha: drifts"),
        (polled(cache={"disk_problem": "the disk is full"}), IconState.DEGRADED, "the disk is full"),
        (polled(cache={"disk_problem": "switched off"}), IconState.READY, "ready"),
        (
            polled(loaded(), loaded(name="beta", default=False, state="failed", reason="bad file")),
            IconState.DEGRADED,
            "beta: bad file",
        ),
        (polled(loaded(name="beta", default=False)), IconState.READY, "alpha · ready"),
        (polled(cache=None, model=None, engine=None), IconState.READY, "edgeembed · cpu · ready"),
        (PollResult(), IconState.STOPPED, "edgeembed: stopped"),
        (PollResult(problem="another program answers"), IconState.DEGRADED, "another program answers"),
        (PollResult(child=ChildStatus(running=True)), IconState.LOADING, "starting"),
        (PollResult(child=ChildStatus(running=True, last_lines=("fetching: 12 %",))), IconState.LOADING, "fetching: 12 %"),
        (PollResult(child=ChildStatus(running=False, last_lines=("bang",))), IconState.LOADING, "restarting after: bang"),
        (
            PollResult(child=ChildStatus(running=False, last_lines=("port in use",), gave_up=True)),
            IconState.STOPPED,
            "port in use",
        ),
    ],
)
def test_states_and_texts(what: PollResult, state: IconState, says: str) -> None:
    found = make_view(what, None, NOON)
    assert found.state is state
    assert says in found.line


def test_a_long_reason_is_shortened_only_in_the_line() -> None:
    found = view(loaded(state="failed", reason="word " * 50))
    assert len(found.line) < 110 and found.line.endswith("…")
    assert found.reason == "word " * 50


def test_work_between_two_polls_shows_as_busy() -> None:
    first = view(loaded(texts_computed=5, requests=2))
    second = view(loaded(texts_computed=6, requests=3), before=first)
    assert (first.state, second.state) == (IconState.READY, IconState.BUSY)
    assert view(loaded(texts_computed=6, requests=3), before=second).state is IconState.READY
    assert view(loaded(texts_computed=7, requests=3), before=second).state is IconState.READY, (
        "the tray's own request to /health"
    )
    assert view(loaded(texts_computed=6, requests=9), before=second).state is IconState.READY, "the cache answered"
    # The counts of another daemon start at zero.
    assert view(loaded(texts_computed=9, requests=9), before=second, pid=8).state is IconState.READY


def test_models_are_remembered_while_the_daemon_is_stopped() -> None:
    gone = make_view(PollResult(), view(), NOON)
    assert (gone.model, gone.models, gone.answers) == ("alpha", (ListedModel(id="alpha", type="Q8_0"),), False)


def test_models_are_listed_once_without_prompts_and_aliases() -> None:
    listed = [
        {"id": "alpha", "type": "Q8_0", "task": "embed"},
        {"id": "alpha:query", "type": "Q8_0", "task": "embed", "input_type": "query"},
        {"id": "alpha:Q8_0", "type": "Q8_0", "task": "embed"},
        {"id": "alpha:F16", "type": "F16", "task": "embed"},
        {"id": "ada", "type": "Q8_0", "task": "embed", "root": "alpha:Q8_0"},
    ]
    assert [model.id for model in read_models({"data": listed})] == ["alpha:Q8_0", "alpha:F16"]
    now_f16 = [{**each, "type": "F16"} if each["id"] == "alpha" else each for each in listed]
    assert [model.id for model in read_models({"data": now_f16})] == ["alpha:Q8_0", "alpha:F16"], "whichever alpha means"
    own = [{"id": "my-Q8_0", "type": "Q8_0", "task": "embed"}]
    assert [model.id for model in read_models({"data": own})] == ["my-Q8_0"]


# --- a day ------------------------------------------------------------------------------------------------------------


def counts(requests: int, hits: int, misses: int, **changed: Any) -> DaemonStatus:
    cache = {"memory_hits": hits, "disk_hits": 0, "misses": misses}
    return msgspec.convert(body(loaded(requests=requests), cache=cache, **changed), DaemonStatus)


def test_all_requests_of_a_daemon_that_started_today_count() -> None:
    day = first_day(counts(10, 3, 9), NOON)
    assert (day.requests, day.hit_rate, day.since) == (10, 0.25, None)


def test_earlier_requests_of_a_daemon_that_started_yesterday_do_not_count() -> None:
    day = first_day(counts(10, 3, 9, uptime_seconds=13 * 3600.0), NOON)
    assert (day.requests, day.hit_rate, day.since) == (0, None, NOON.time())
    assert day.after(counts(12, 4, 9, uptime_seconds=13 * 3600.0), NOON).requests == 2


def test_counts_are_summed_over_restarts_and_reset_at_midnight() -> None:
    day = first_day(counts(10, 3, 9), NOON)
    day = day.after(counts(4, 0, 4, pid=8), NOON)
    assert (day.requests, day.lookups) == (14, 16)
    # Unloading their model removed these requests from the status.
    day = day.after(counts(1, 0, 4, pid=8), NOON)
    assert day.requests == 14
    late = NOON + datetime.timedelta(hours=12)
    tomorrow = day.after(counts(3, 0, 6, pid=8), late)
    assert (tomorrow.date, tomorrow.requests, tomorrow.lookups, tomorrow.since) == (late.date(), 2, 2, None)


# --- notifications ----------------------------------------------------------------------------------------------------


def test_the_state_at_the_start_of_the_tray_sends_no_notifications() -> None:
    assert list(notifications(None, view(loaded(state="failed")))) == []
    assert list(notifications(view(), view())) == []


def test_changes_that_send_notifications() -> None:
    def titles(before: View, now: View, seconds: float = 0.0) -> list[str]:
        return [title for title, _ in notifications(before, now, seconds)]

    ready, stopped = view(), make_view(PollResult(), None, NOON)
    demoted = view(engine={"state": "ready", "demotions": [DEMOTION]})
    replaced = view(model={"name": "alpha", "digest": "d2"})
    two = make_view(PollResult(polled().status, models=(ListedModel(id="alpha"), ListedModel(id="beta"))), None, NOON)
    unread = make_view(PollResult(polled().status), None, NOON)
    starting = make_view(PollResult(child=ChildStatus(running=True)), None, NOON)
    assert titles(ready, stopped) == ["edgeembed has stopped"]
    assert titles(stopped, stopped) == [] and titles(stopped, ready) == []
    assert titles(ready, demoted) == ["Running slower"]
    assert titles(demoted, demoted) == []
    assert titles(ready, replaced) == ["Model file changed"]
    assert titles(ready, two) == ["Model installed"]
    assert titles(unread, two) == [], "the list had not been read"
    assert titles(ready, view(alarm="drifts")) == ["edgeembed has a problem"]
    assert titles(starting, ready, LONG_START_SECONDS) == ["edgeembed is ready"]
    assert titles(starting, ready, 1.0) == [], "a short start"
    # A different model is not a changed file.
    assert titles(ready, view(model={"name": "beta", "digest": "d2"})) == []


def test_the_reason_says_when_a_failed_mode_is_retried() -> None:
    demotion = {**DEMOTION, "again_at": datetime.datetime(2026, 5, 4, 12, 30).timestamp()}
    view = make_view(polled(engine={"state": "ready", "mode": "cpu", "demotions": [demotion]}), None, NOON)
    assert view.state is IconState.DEGRADED
    assert view.reason == "gpu failed (retry at 12:30): out of memory"
