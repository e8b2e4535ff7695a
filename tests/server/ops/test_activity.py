"""The last minutes, for the dashboard's charts."""

from __future__ import annotations

import msgspec

from edgeembed.server.ops.activity import STEP_SECONDS, STEPS, Activity, Totals


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_steps_have_rates_percentiles_and_hit_rates() -> None:
    clock, totals = Clock(), Totals()
    activity = Activity(lambda: totals, clock)
    for milliseconds in range(1, 101):
        activity.record(milliseconds / 1000, 200 if milliseconds > 10 else 400)
    totals = Totals(hits=30, lookups=40, tokens=500)
    clock.now += STEP_SECONDS
    activity.record(1.0, 200)
    totals = Totals(hits=30, lookups=40, tokens=600)
    clock.now += 3 * STEP_SECONDS
    found = activity.describe()
    assert {len(values) for values in msgspec.structs.astuple(found)[1:]} == {STEPS}
    assert found.requests_per_second[-5:] == (0, 50, 0.5, 0, 0)
    assert found.failures_per_second[-4:-2] == (5, 0)
    assert found.tokens_per_second[-4:-2] == (250, 50)
    assert found.hit_rate[-5:] == (None, 0.75, None, None, None)
    assert found.p50_ms[-4:] == (50.5, 1000, None, None)
    assert 95 <= found.p95_ms[-4] <= 96


def test_old_steps_are_dropped_and_unloading_an_engine_subtracts_nothing() -> None:
    clock, totals = Clock(), Totals(tokens=1000)
    activity = Activity(lambda: totals, clock)
    activity.record(0.1, 200)
    clock.now += STEP_SECONDS
    activity.record(0.1, 200)
    totals = Totals(tokens=10)
    clock.now += STEP_SECONDS
    assert activity.describe().tokens_per_second[-1] == 0
    clock.now += STEPS * STEP_SECONDS
    assert sum(activity.describe().requests_per_second) == 0
