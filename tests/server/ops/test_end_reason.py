"""GET /v1/status/ending: why the daemon ends."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.server.ops.end_reason import END_REASON
from edgeembed.server.ops.metrics import METRICS
from tests.waiting import until_async

PATH = "/v1/status/ending"


async def test_there_is_no_reason_while_the_daemon_does_not_end(client: TestClient) -> None:
    assert await (await client.get(PATH)).json() == {"reason": None, "restarts": False}


async def test_who_waits_gets_the_first_reason(client: TestClient) -> None:
    assert client.app is not None
    ending, http = client.app[END_REASON], client.app[METRICS].http
    waiting = asyncio.ensure_future(client.get(f"{PATH}?wait=25"))
    await until_async(lambda: ending.waiting == 1)
    assert http.in_flight == 0, "a page that waits is no work"
    ending.begin("the model cannot be fetched")
    ending.begin("it was told to stop")
    assert await (await waiting).json() == {"reason": "the model cannot be fetched", "restarts": False}
    assert http.in_flight == 0 and http.seconds["/v1/status/ending"] == 0.0


@pytest.mark.parametrize("wait", ["-1", "26", "nan", "inf", "x", ""])
async def test_other_waits_are_refused(client: TestClient, wait: str) -> None:
    response = await client.get(PATH, params={"wait": wait})
    error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, "wait") and "from 0 to 25" in error["message"]
