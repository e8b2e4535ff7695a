"""Responses of GET /v1/status, and the tray's views of them."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from edgeembed.common.status import DaemonStatus, ListedModel
from edgeembed.tray.state import PollResult, View, make_view

NOON = datetime.datetime(2026, 5, 4, 12, 0)


def loaded(**changed: Any) -> dict[str, Any]:
    return {
        "name": "alpha",
        "type": "Q8_0",
        "state": "ready",
        "default": True,
        "device": "cpu",
        "requests": 0,
        "texts_computed": 0,
        "texts_waiting": 0,
        "active": 0,
        "reason": None,
        "worker_pid": 4,
        **changed,
    }


def body(*models: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return a response of GET /v1/status, with some keys that the tray does not know."""
    return {
        "version": "9.9",
        "pid": 7,
        "uptime_seconds": 60.0,
        "model": {"name": "alpha", "digest": "d1", "pooling": "mean"},
        "engine": {"state": "ready", "mode": "cpu", "demotions": [], "restarts": 0},
        "models": list(models or (loaded(),)),
        "cache": {"memory_hits": 0, "disk_hits": 0, "misses": 0, "folder": "/c", "disk_problem": None, "rows_to_write": 3},
        "vectors": [],
        **changed,
    }


def polled(*models: dict[str, Any], paused: bool | None = False, alarm: str | None = None, **changed: Any) -> PollResult:
    return PollResult(
        msgspec.convert(body(*models, **changed), DaemonStatus),
        paused=paused,
        alarm=alarm,
        models=(ListedModel(id="alpha", type="Q8_0"),),
    )


def view(*models: dict[str, Any], before: View | None = None, **changed: Any) -> View:
    return make_view(polled(*models, **changed), before, NOON)
