"""Devices, demotions and mode changes in the status and the metrics."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient

from edgeembed.common.status import Demotion, EngineStatus, ModeChange
from edgeembed.server.app_keys import SERVICE
from tests.fakes import FakeEngine
from tests.server.helpers import loaded

DEMOTION = Demotion(mode="gpu-full", reason="CUDA error: out of memory", at=1.0, cause="out_of_memory", again_at=61.0)
MODE_CHANGE = ModeChange(source="gpu-full", target="gpu-partial", cause="out_of_memory", reason=DEMOTION.reason, at=1.0)


@pytest.fixture
def demoted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = FakeEngine.status.fget  # type: ignore[attr-defined]

    def status(self: FakeEngine) -> EngineStatus:
        more = {
            "mode": "gpu-partial", "demotions": [DEMOTION], "mode_changes": [MODE_CHANGE], "offload": "20 layers on CUDA0",
            "mode_changes_by_cause": {"gpu-full>gpu-partial>out_of_memory": 3, "gpu-partial>gpu-full>recovered": 2},
        }  # fmt: skip
        return msgspec.structs.replace(plain(self), **more)

    monkeypatch.setattr(FakeEngine, "status", property(status))


@pytest.mark.usefixtures("demoted")
async def test_the_status_has_mode_changes_and_the_time_of_the_next_try(client: TestClient) -> None:
    await loaded(client)
    said = await (await client.get("/v1/status")).json()
    assert said["engine"]["mode_changes"] == [msgspec.to_builtins(MODE_CHANGE)]
    assert said["engine"]["demotions"][0]["again_at"] == 61.0
    assert said["models"][0]["demotions"] == said["engine"]["demotions"]
    assert said["models"][0]["device"] == "gpu-partial" and said["models"][0]["offload"] == "20 layers on CUDA0"


@pytest.mark.usefixtures("demoted")
async def test_metrics_count_mode_changes_by_cause(client: TestClient) -> None:
    await loaded(client)
    lines = (await (await client.get("/metrics")).text()).splitlines()
    mode_changes = {line.partition("{")[2] for line in lines if line.startswith("edgeembed_mode_changes_total{")}
    assert len(mode_changes) == 2
    assert any('from="gpu-full",model="fake-model:F32",to="gpu-partial"} 3.0' in move for move in mode_changes), mode_changes
    assert any('cause="recovered"' in move for move in mode_changes)


async def test_the_status_has_the_devices(client: TestClient) -> None:
    assert client.app is not None
    client.app[SERVICE].devices = lambda: {"used": ["CUDA0"]}
    assert (await (await client.get("/v1/status")).json())["devices"] == {"used": ["CUDA0"]}
