"""When the circuit breaker lets requests through."""

from __future__ import annotations

from edgeembed.upstream.breaker import BACKOFF, FAILURES_TO_OPEN, LONGEST_ASKED, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_closes_after_a_success() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed("no")
        assert breaker.state == "closed" and breaker.pause > 0
    breaker.worked()
    assert breaker.away_since is None and breaker.pause == 0
    for _ in range(FAILURES_TO_OPEN):
        clock.now += 1
        breaker.failed("no route")
    assert (breaker.state, breaker.reason, breaker.opened) == ("open", "no route", 1)
    assert breaker.away_since == 101.0, "the first of these failures counts"
    breaker.probe()
    assert breaker.state == "half-open"
    breaker.failed("still no route")
    assert (breaker.state, breaker.opened) == ("open", 1)
    breaker.probe()
    breaker.worked()
    assert breaker.state == "closed" and breaker.reason is None


def test_pauses_grow_up_to_a_limit() -> None:
    breaker = Breaker(Clock())
    pauses = []
    for _ in range(20):
        breaker.failed("no")
        pauses.append(breaker.pause)
    assert pauses[0] < 0.2 and pauses[3] > pauses[0]
    assert 0.6 * BACKOFF.longest < pauses[-1] <= BACKOFF.longest


def test_a_retry_after_is_obeyed_up_to_a_limit() -> None:
    breaker = Breaker(Clock())
    breaker.busy("too much", 7.0)
    assert (breaker.state, breaker.pause) == ("closed", 7.0)
    breaker.busy("too much", 1e9)
    assert breaker.pause == LONGEST_ASKED
    breaker.worked()
    breaker.failed("maintenance", 20.0, at_once=True)
    assert (breaker.state, breaker.pause) == ("open", 20.0)
