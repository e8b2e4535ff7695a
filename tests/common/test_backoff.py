"""Pauses that grow with each failure."""

from __future__ import annotations

from edgeembed.common.backoff import Backoff


def test_pauses_double_up_to_a_limit() -> None:
    backoff = Backoff(first=1.0, longest=30.0)
    assert [backoff.pause(failures) for failures in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.pause(1_000_000) == 30.0


def test_another_factor() -> None:
    assert [Backoff(first=0.5, longest=10.0, factor=3.0).pause(failures) for failures in (1, 2, 3, 4)] == [0.5, 1.5, 4.5, 10]


def test_jitter_shortens_a_pause_by_a_share_at_most() -> None:
    pauses = {Backoff(first=2.0, longest=2.0, jitter=0.25).pause(1) for _ in range(200)}
    assert len(pauses) > 1
    assert all(1.5 <= pause <= 2.0 for pause in pauses)


def test_what_the_server_asks_for_is_the_least() -> None:
    backoff = Backoff(first=1.0, longest=4.0)
    assert backoff.pause(1, asked=3.0) == 3.0
    assert backoff.pause(3, asked=3.0) == 4.0
    assert backoff.pause(3, asked=60.0) == 60.0, "a limit on that is the caller's"
    assert backoff.pause(0, asked=2.0) == 2.0
