"""The Retry-After header, read and written."""

from __future__ import annotations

import datetime

import pytest

from edgeembed.common.retry_after import format_retry_after, parse_retry_after

NOW = datetime.datetime(2015, 10, 21, 7, 28, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30.0),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
def test_seconds_and_dates_are_read(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "nan", "inf", "1e3", "²", "9" * 400, "Wed, 21 Oct 99999 07:28:00 GMT", "21 Oct"]
)
def test_anything_else_counts_as_no_header(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


@pytest.mark.parametrize(("seconds", "value"), [(0.0, "0"), (0.2, "1"), (1.0, "1"), (59.01, "60"), (-3.0, "0")])
def test_whole_seconds_are_written_rounded_up(seconds: float, value: str) -> None:
    assert format_retry_after(seconds) == value
