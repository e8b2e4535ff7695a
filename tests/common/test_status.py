"""The status, exchanged between daemons and readers of different versions."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from edgeembed.common import status
from edgeembed.common.status import DaemonStatus, DefaultModel, Health, ListedModel
from edgeembed.engine.interface import ModelInfo

STRUCTS = [kind for _, kind in inspect.getmembers(status, inspect.isclass) if issubclass(kind, msgspec.Struct)]


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_fields_of_a_newer_daemon_are_ignored(kind: type[msgspec.Struct]) -> None:
    assert not kind.__struct_config__.forbid_unknown_fields


def test_words_of_a_newer_daemon_can_be_read() -> None:
    body = {
        "version": "9.9", "pid": 7, "uptime_seconds": 1.0, "weather": "rain",
        "engine": {"state": "dreaming", "mode": "quantum"},
        "models": [{"name": "alpha", "type": "Q8_0", "state": "dreaming", "task": "transcribe"}],
        "upstream": {"url": "http://gpu-box", "breaker": "welded"},
    }  # fmt: skip
    read = msgspec.convert(body, DaemonStatus)
    assert read.engine is not None and read.engine.state == "dreaming" and read.models[0].task == "transcribe"
    assert msgspec.convert({"status": "sleepy"}, Health).status == "sleepy"
    assert msgspec.convert({"id": "alpha", "object": "thing"}, ListedModel).id == "alpha"


def test_fields_that_an_older_daemon_lacks_have_defaults() -> None:
    read = msgspec.convert({"version": "0.1", "pid": 7, "uptime_seconds": 1.0, "cache": {}, "model": None}, DaemonStatus)
    assert read.models == () and read.cache is not None and read.cache.memory_hits == 0


def test_all_facts_of_a_loaded_model_are_in_the_status() -> None:
    not_shown = {"reference", "mode"}  # a vector, and what `EngineStatus` says
    assert set(ModelInfo.__struct_fields__) - not_shown <= set(DefaultModel.__struct_fields__)
