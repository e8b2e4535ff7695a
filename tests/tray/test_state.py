"""What the icon shows for what a daemon says of itself: states, words, the counts of a day, news."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest

from edgeembed.common.status import DaemonStatus, ListedModel
from edgeembed.tray.notifications import LONG_START_SECONDS, news
from edgeembed.tray.state import Child, Seen, State, View, first_day, look, read_models
from tests.tray.states import NOON, body, seen, slot, view

FALL = {"mode": "gpu", "reason": "out of memory", "at": 1.0}


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "state", "says"),
    [
        (seen(), State.READY, "alpha · cpu · ready"),
        (seen(slot(active=1)), State.BUSY, "alpha · cpu · busy"),
        (seen(slot(texts_waiting=9)), State.BUSY, "busy"),
        (seen(slot(state="loading", device=None)), State.LOADING, "alpha · loading"),
        (seen(slot(state="restarting", reason="it died")), State.LOADING, "it died"),
        (seen(slot(state="failed", reason="no mode holds")), State.DEGRADED, "no mode holds"),
        (seen(paused=True), State.PAUSED, "alpha · cpu · paused"),
        (seen(slot(state="failed"), paused=True), State.DEGRADED, "cannot be served"),
        (seen(engine={"state": "ready", "demotions": [FALL]}), State.DEGRADED, "gpu did not hold: out of memory"),
        (seen(alarm="vectors are unlike the first"), State.DEGRADED, "vectors are unlike the first"),
        (seen(vectors=[{"model": "alpha", "alarm": "drifts"}]), State.DEGRADED, "alpha: drifts"),
        (seen(cache={"disk_problem": "the disk is full"}), State.DEGRADED, "the disk is full"),
        (seen(cache={"disk_problem": "switched off"}), State.READY, "ready"),
        (
            seen(slot(), slot(name="beta", default=False, state="failed", reason="bad file")),
            State.DEGRADED,
            "beta: bad file",
        ),
        (seen(slot(name="beta", default=False)), State.READY, "alpha · ready"),
        (seen(cache=None, model=None, engine=None), State.READY, "edgeembed · cpu · ready"),
        (Seen(), State.STOPPED, "edgeembed: stopped"),
        (Seen(problem="another program answers"), State.DEGRADED, "another program answers"),
        (Seen(child=Child(running=True)), State.LOADING, "starting"),
        (Seen(child=Child(running=True, last_line="fetching: 12 %")), State.LOADING, "fetching: 12 %"),
        (Seen(child=Child(running=False, last_line="bang")), State.LOADING, "starts again: bang"),
        (Seen(child=Child(running=False, last_line="port in use", gave_up=True)), State.STOPPED, "port in use"),
    ],
)
def test_states_and_their_words(what: Seen, state: State, says: str) -> None:
    found = look(what, None, NOON)
    assert found.state is state
    assert says in found.line


def test_a_long_reason_is_cut_in_the_line_and_whole_in_the_reason() -> None:
    found = view(slot(state="failed", reason="word " * 50))
    assert len(found.line) < 110 and found.line.endswith("…")
    assert found.reason == "word " * 50


def test_work_that_came_and_went_between_two_looks_shows() -> None:
    first = view(slot(texts_computed=5, requests=2))
    second = view(slot(texts_computed=6, requests=3), before=first)
    assert (first.state, second.state) == (State.READY, State.BUSY)
    assert view(slot(texts_computed=6, requests=3), before=second).state is State.READY
    assert view(slot(texts_computed=7, requests=3), before=second).state is State.READY, "the tray's own look at /health"
    assert view(slot(texts_computed=6, requests=9), before=second).state is State.READY, "the cache answered"
    # Another daemon begins to count anew.
    assert view(slot(texts_computed=9, requests=9), before=second, pid=8).state is State.READY


def test_models_are_remembered_while_no_daemon_answers() -> None:
    gone = look(Seen(), view(), NOON)
    assert (gone.model, gone.models, gone.answers) == ("alpha", (ListedModel(id="alpha", type="Q8_0"),), False)


def test_models_are_listed_once_without_prompts_and_aliases() -> None:
    listed = [
        {"id": "alpha", "type": "Q8_0", "task": "embed"},
        {"id": "alpha:query", "type": "Q8_0", "task": "embed", "input_type": "query"},
        {"id": "alpha:Q8_0", "type": "Q8_0", "task": "embed"},
        {"id": "alpha:F16", "type": "F16", "task": "embed"},
        {"id": "ada", "type": "Q8_0", "task": "embed", "root": "alpha:Q8_0"},
    ]
    assert [model.id for model in read_models({"data": listed})] == ["alpha", "alpha:F16"]


# --- a day ------------------------------------------------------------------------------------------------------------


def counts(requests: int, hits: int, misses: int, **changed: Any) -> DaemonStatus:
    cache = {"memory_hits": hits, "disk_hits": 0, "misses": misses}
    return msgspec.convert(body(slot(requests=requests), cache=cache, **changed), DaemonStatus)


def test_a_daemon_that_started_today_counts_whole() -> None:
    day = first_day(counts(10, 3, 9), NOON)
    assert (day.requests, day.hit_rate, day.since) == (10, 0.25, None)


def test_one_that_started_before_counts_from_now_on() -> None:
    day = first_day(counts(10, 3, 9, uptime_seconds=13 * 3600.0), NOON)
    assert (day.requests, day.hit_rate, day.since) == (0, None, NOON.time())
    assert day.after(counts(12, 4, 9, uptime_seconds=13 * 3600.0), NOON).requests == 2


def test_runs_of_the_daemon_add_up_and_midnight_begins_anew() -> None:
    day = first_day(counts(10, 3, 9), NOON)
    day = day.after(counts(4, 0, 4, pid=8), NOON)
    assert (day.requests, day.lookups) == (14, 16)
    # The model of those requests was unloaded, and took them with it.
    day = day.after(counts(1, 0, 4, pid=8), NOON)
    assert day.requests == 14
    late = NOON + datetime.timedelta(hours=12)
    tomorrow = day.after(counts(3, 0, 6, pid=8), late)
    assert (tomorrow.date, tomorrow.requests, tomorrow.lookups, tomorrow.since) == (late.date(), 2, 2, None)


# --- news -------------------------------------------------------------------------------------------------------------


def test_what_was_so_at_the_start_is_no_news() -> None:
    assert list(news(None, view(slot(state="failed")))) == []
    assert list(news(view(), view())) == []


def test_news() -> None:
    def titles(before: View, now: View, seconds: float = 0.0) -> list[str]:
        return [title for title, _ in news(before, now, seconds)]

    well, gone = view(), look(Seen(), None, NOON)
    fallen = view(engine={"state": "ready", "demotions": [FALL]})
    replaced = view(model={"name": "alpha", "digest": "d2"})
    two = look(Seen(seen().status, models=(ListedModel(id="alpha"), ListedModel(id="beta"))), None, NOON)
    unread = look(Seen(seen().status), None, NOON)
    starting = look(Seen(child=Child(running=True)), None, NOON)
    assert titles(well, gone) == ["edgeembed has stopped"]
    assert titles(gone, gone) == [] and titles(gone, well) == []
    assert titles(well, fallen) == ["Slower than before"]
    assert titles(fallen, fallen) == []
    assert titles(well, replaced) == ["The model's file has changed"]
    assert titles(well, two) == ["A model is installed"]
    assert titles(unread, two) == [], "the list had not been read"
    assert titles(well, view(alarm="drifts")) == ["edgeembed is not well"]
    assert titles(starting, well, LONG_START_SECONDS) == ["edgeembed is ready"]
    assert titles(starting, well, 1.0) == [], "nobody looked away"
    # Another model is no changed file, and falls of a daemon before are no news of this one.
    assert titles(well, view(model={"name": "beta", "digest": "d2"})) == []


def test_a_fall_with_a_cool_down_says_when_it_is_tried_again() -> None:
    demotion = {**FALL, "again_at": datetime.datetime(2026, 5, 4, 12, 30).timestamp()}
    view = look(seen(engine={"state": "ready", "mode": "cpu", "demotions": [demotion]}), None, NOON)
    assert view.state is State.DEGRADED
    assert view.reason == "gpu did not hold (again at 12:30): out of memory"
