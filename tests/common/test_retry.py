"""Which errors of a request are retried."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from edgeembed.common import retry
from edgeembed.common.backoff import Backoff
from edgeembed.common.retry import with_retries
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, OverloadedError, RequestError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF", Backoff(first=0.0, longest=0.0))


class Attempts:
    """Fails with these errors, one after another, and then returns a value."""

    def __init__(self, *errors: EdgeEmbedError) -> None:
        self._errors = list(errors)

    async def __call__(self) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "value"


async def test_temporary_errors_are_retried() -> None:
    attempts = Attempts(EngineUnavailableError("restarting"), OverloadedError("full", retry_after=30.0))
    assert await with_retries(attempts) == "value"


@pytest.mark.parametrize("error", [RequestError("bad"), OverloadedError("too long", param="input[0]")])
async def test_an_error_of_the_request_or_of_one_text_is_not(error: EdgeEmbedError) -> None:
    with pytest.raises(type(error), match=error.message):
        await with_retries(Attempts(error))


async def test_an_attempt_that_takes_longer_than_retries_may_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the time since the first failure."""
    clock = itertools.count(0.0, 2 * retry.RETRY_SECONDS)
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert await with_retries(Attempts(EngineUnavailableError("killed"))) == "value"


async def test_an_error_that_lasts_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", -1.0)
    with pytest.raises(EngineUnavailableError, match="restarting"):
        await with_retries(Attempts(EngineUnavailableError("restarting")))
