"""Who may administer: every route under /v1/admin, taken from the router, so that no new one can be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, make_mocked_request

from edgeembed.errors import ForbiddenError
from edgeembed.server.api_keys import Keys
from edgeembed.server.auth import DESKTOP_APPS, Access
from edgeembed.server.ops.openapi import served
from edgeembed.server.owner import require_owner
from tests.server.dialect_requests import daemon
from tests.server.machine import Machine

Connect = Callable[..., Awaitable[TestClient]]
FRIEND = "https://friend.example"
"""A page of allowed_origins, which may embed."""
HARMLESS = {"model": "nobody", "name": "nothing", "value": None, "origins": []}
"""A body with every field that a route may need; what it names is not there."""

PAGES: dict[str, dict[str, str]] = {
    "another site": {"Origin": "https://evil.example"},
    "allowed to embed": {"Origin": FRIEND},
    "sandboxed frame": {"Origin": "null"},
    "desktop app": {"Origin": "app://obsidian.md"},
    "another port": {"Origin": "http://127.0.0.1:3000"},
    "another scheme": {"Origin": "https://127.0.0.1"},
    "prefix": {"Origin": "http://127.0.0.1.evil.example"},
    "image": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "image of another port": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    "link": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "rebound name": {"Host": "evil.example", "Origin": "http://evil.example"},
    "rebound name, read": {"Host": "evil.example"},
    "simple POST": {"Origin": "https://evil.example", "Content-Type": "text/plain"},
    "form": {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
    "form with files": {"Origin": FRIEND, "Content-Type": "multipart/form-data; boundary=x"},
}
PROXIED = [
    {"X-Forwarded-For": "203.0.113.9"},
    {"Forwarded": "for=203.0.113.9"},
    {"X-Real-IP": "203.0.113.9"},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Host": "embed.example"},
    {"Via": "1.1 proxy"},
]


@pytest.fixture
def connect(home: Path, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> Connect:
    async def connect(**access: Any) -> TestClient:
        return await aiohttp_client(daemon(access=Access(**access)).app)

    return connect


def routes(client: TestClient) -> Iterator[tuple[str, str]]:
    found = [place for place in served(client.app) if place[1].startswith("/v1/admin")]
    assert len(found) > 10
    yield from found


async def ask(client: TestClient, method: str, path: str, headers: dict[str, str]) -> ClientResponse:
    headers = {"Content-Type": "application/json", **headers}
    return await client.request(method, path, data=None if method == "GET" else str(HARMLESS).encode(), headers=headers)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("keys", [False, True], ids=["no keys", "with its key"])
async def test_pages_may_neither_change_nor_read_anything(connect: Connect, page: str, keys: bool) -> None:
    known = Keys.read("sesame", None) if keys else Keys()
    client = await connect(keys=known, check_host=not keys, origins=(FRIEND, *DESKTOP_APPS))
    if keys and page.startswith("rebound"):
        return  # a page whose name is rebound has no key: see the next test
    headers = PAGES[page] | ({"Authorization": "Bearer sesame"} if keys else {})
    for method, path in routes(client):
        response = await ask(client, method, path, headers)
        assert response.status == 403, f"{method} {path}"
        assert (await response.json())["error"]["code"] == "forbidden"


@pytest.mark.parametrize("wrong", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}], ids=str)
@pytest.mark.parametrize("host", [{}, {"Host": "evil.example"}], ids=str)
async def test_with_keys_every_route_needs_one(connect: Connect, wrong: dict[str, str], host: dict[str, str]) -> None:
    client = await connect(keys=Keys.read("sesame", None), check_host=False)
    for method, path in routes(client):
        assert (await ask(client, method, path, {**wrong, **host})).status == 401, f"{method} {path}"


@pytest.mark.parametrize("headers", PROXIED, ids=str)
async def test_clients_behind_a_proxy_may_do_nothing(connect: Connect, headers: dict[str, str]) -> None:
    client = await connect()
    for method, path in routes(client):
        assert (await ask(client, method, path, headers)).status == 403, f"{method} {path}"


async def test_other_machines_may_do_nothing_without_keys(home: Path) -> None:
    """With --no-auth on a network, everybody may embed, but neither stop the daemon nor read its settings."""
    app = daemon(access=Access(check_host=False, loopback_only=False)).app
    for (method, path), route in served(app).items():
        if not path.startswith("/v1/admin"):
            continue
        request = make_mocked_request(method, path, headers={"Host": "192.168.1.5"}, app=app)
        with pytest.raises(ForbiddenError, match="programs on this machine"):
            await route.handler(request.clone(remote="192.168.1.20"))


@pytest.mark.parametrize("name", ["nas.local", "edgeembed", "host.docker.internal"])
async def test_names_that_the_network_answers_for_do_not_administer(connect: Connect, name: str) -> None:
    """Programs may embed by them; but a page whose name was rebound can send GET requests that look like a program's."""
    client = await connect(loopback_only=False)
    assert (await client.get("/v1/models", headers={"Host": name})).status == 200
    for method, path in routes(client):
        assert (await ask(client, method, path, {"Host": name})).status == 403, f"{method} {path}"


@pytest.mark.parametrize("keys", [False, True], ids=["no keys", "with its key"])
async def test_the_servers_own_page_administers(connect: Connect, keys: bool) -> None:
    client = await connect(keys=Keys.read("sesame", None) if keys else Keys(), check_host=not keys)
    own = f"http://{client.host}:{client.port}"
    page = {"Sec-Fetch-Site": "same-origin", **({"Authorization": "Bearer sesame"} if keys else {})}
    for method, path in routes(client):
        if method == "GET":
            assert (await ask(client, method, path, page)).status == 200, path
    assert (await ask(client, "POST", "/v1/admin/pause", {"Origin": own, **page})).status == 200
    simple = {"Origin": own, "Content-Type": "text/plain", **page}
    assert (await ask(client, "POST", "/v1/admin/resume", simple)).status == 403, "a form inside of it does not"
    assert (await ask(client, "POST", "/api/pull", {"Origin": own, **page})).status != 200, (
        "other protocols are for programs"
    )


async def test_no_route_answers_a_preflight_request_of_another_page_with_leave(connect: Connect) -> None:
    client = await connect()
    for _, path in routes(client):
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        response = await client.options(path, headers=asked)
        assert response.status == 403 and "Access-Control-Allow-Origin" not in response.headers


async def test_who_is_refused_changes_nothing(
    tmp_path: Path, home: Path, aiohttp_client: Callable[..., Awaitable[TestClient]]
) -> None:
    machine = Machine(tmp_path)
    client = await aiohttp_client(machine.app(origins=(FRIEND,)))
    body = {"model": "tiny:F32", "name": "port", "value": 1, "origins": ["https://evil.example"]}
    before = {path: path.read_bytes() for path in machine.paths.models.rglob("*") if path.is_file()}
    for method, path in routes(client):
        assert (await client.request(method, path, json=body, headers={"Origin": FRIEND})).status == 403
    await asyncio.sleep(0)
    assert {path: path.read_bytes() for path in machine.paths.models.rglob("*") if path.is_file()} == before
    assert not machine.paths.config_file.exists() and not machine.pulled and not machine.pool.paused
    assert not list(machine.paths.config_file.parent.glob("*key*"))


@pytest.mark.parametrize(
    ("remote", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("", True),
        (None, True),
        ("192.168.1.20", False),
        ("::ffff:192.168.1.20", False),
        ("fe80::1%eth0", False),
        ("unknown", False),
    ],
)
async def test_without_api_keys_other_machines_may_not_administer(home: Path, remote: str | None, allowed: bool) -> None:
    app = daemon(access=Access(check_host=False, loopback_only=False)).app
    request = make_mocked_request("POST", "/v1/admin/pause", headers={"Host": "localhost"}, app=app)
    request = request.clone(remote=remote) if remote is not None else request
    if allowed:
        require_owner(request)
    else:
        with pytest.raises(ForbiddenError, match="programs on this machine"):
            require_owner(request)
