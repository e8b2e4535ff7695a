"""The service in this process: what it needs, and that its worker ends with it."""

from __future__ import annotations

from typing import Any

import pytest

from edgeembed.config.resolution import resolve
from edgeembed.engine.interface import Engine
from edgeembed.errors import ConfigError
from edgeembed.inference.requests import EmbedRequest
from edgeembed.runtime.in_process import in_process_service
from tests.cli.helpers import install
from tests.fakes import FakeEngine


def ignore(_line: str) -> None:
    pass


async def test_without_a_model_it_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="no model is configured; name one with --model"):
        async with in_process_service(resolve(), ignore, cache=False):
            pass


async def test_a_disabled_cache_cannot_be_filled() -> None:
    install("alpha", "F16")
    with pytest.raises(ConfigError, match="the cache is disabled by the setting `cache`"):
        async with in_process_service(resolve({"model": "alpha", "cache": False}), ignore, cache=True):
            pass


@pytest.mark.parametrize("cache", [True, False])
async def test_the_model_ends_with_the_service(cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    install("alpha", "F16")
    engines: list[FakeEngine] = []

    def make_engine(*_arguments: Any, **_options: Any) -> Engine:
        engines.append(FakeEngine())
        return engines[-1]

    monkeypatch.setattr("edgeembed.runtime.service.make_engine", make_engine)
    async with in_process_service(resolve({"model": "alpha"}), ignore, cache=cache) as (service, model):
        assert (model.name, service.cache is not None) == ("alpha", cache)
        await service.embed(EmbedRequest(["a text"]))
        (engine,) = engines
        assert not engine.closed
    assert engine.closed
