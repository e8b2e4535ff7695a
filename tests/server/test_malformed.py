"""A few hundred malformed bodies per seed; `python -m tests.server.malformed` sends thousands to a real daemon."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient

from tests.server.dialect_requests import Server, post
from tests.server.malformed import EXAMPLES, cases


@pytest.mark.parametrize("path", sorted(EXAMPLES))
async def test_hostile_names_and_nesting_are_client_errors(
    aiohttp_client: Callable[..., Awaitable[TestClient]], path: str
) -> None:
    client = await aiohttp_client(Server().app)
    opening = [b"[" * 50_000, b'{"a":' * 15_000]
    bodies = [b'{"other":%b' % each for each in opening] + [b'{"input":%b' % each for each in opening] + opening
    for name in ("x" + ":query" * 2000, "a" * 90_000, "embedder:" + "é" * 4000, "bge-m3:" + "a" * 90_000):
        bodies.append(json.dumps({**EXAMPLES[path], "model": name}).encode())
    for body in bodies:
        response = await client.post(path, data=body, headers={"Content-Type": "application/json"})
        text = await response.text()
        assert 400 <= response.status < 500, f"{body[:100]!r}: {response.status} {text}"
        assert set(json.loads(text)) & {"error", "message"} and len(text) < 1000, text


@pytest.mark.parametrize("seed", [1, 2])
async def test_malformed_bodies_are_client_errors_and_do_no_harm(
    aiohttp_client: Callable[..., Awaitable[TestClient]], seed: int
) -> None:
    server = Server(outputs=("dense", "multi", "sparse"))
    client = await aiohttp_client(server.app)
    statuses: Counter[int] = Counter()
    for case in cases(seed, 300):
        response = await client.post(case.path, data=case.body, headers={"Content-Type": "application/json", **case.headers})
        text = await response.text()
        assert response.status < 500, f"{case.path} {case.headers} {case.body[:300]!r}: {response.status} {text}"
        assert response.status < 400 or set(json.loads(text)) & {"error", "message"}, text
        statuses[response.status] += 1
    assert statuses[400] > 100 and statuses[422] > 20, "the cases are still malformed"
    assert [slot.leases for slot in server.pool.slots] == [0] * len(server.pool.slots), "no lease is left"
    for path, body in EXAMPLES.items():
        status, _ = await post(client, path, **body)
        assert status == (200 if "no-such-model" not in body.values() else 404), path
