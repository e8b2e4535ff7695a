"""Access: Host (DNS rebinding), Origin (web pages), API keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.errors import ConfigError
from edgeembed.server.api_keys import Keys
from edgeembed.server.app import make_app
from edgeembed.server.auth import Access
from tests.fakes import FakeEngine, fake_service

Connect = Callable[[Access], Awaitable[TestClient]]
BODY = {"input": "x"}


@pytest.fixture
def connect(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> Connect:
    async def connect(access: Access) -> TestClient:
        return await aiohttp_client(make_app(fake_service(FakeEngine()), access=access))

    return connect


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8327", 200),
        ("LOCALHOST:1", 200),
        ("localhost.", 200),
        ("app.localhost", 200),
        ("[::1]:8327", 200),
        ("127.8.8.8", 200),
        ("box.example", 200),  # in allowed_hosts
        ("evil.example", 403),
        ("evil.example:8327", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("evil.example/127.0.0.1", 403),
        ("192.0.2.1", 403),
        ("0.0.0.0", 403),
        ("2130706433", 403),
        ("127.0.0.1:http", 403),
        (" ", 403),
        ("", 403),
    ],
)
async def test_only_names_of_this_machine_are_allowed(connect: Connect, host: str, status: int) -> None:
    client = await connect(Access(hosts=frozenset({"box.example"})))
    response = await client.post("/v1/embeddings", json=BODY, headers={"Host": host})
    assert response.status == status
    if status == 403:
        assert (await response.json())["error"]["code"] == "forbidden"
    assert (await client.get("/health", headers={"Host": host})).status == status, (
        "every path, including those that need no key"
    )


async def test_no_host_or_two_hosts_are_refused(connect: Connect) -> None:
    client = await connect(Access())
    reader, writer = await asyncio_open(client)
    writer.write(b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert b" 403 " in await reader.readline()
    writer.close()
    reader, writer = await asyncio_open(client)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert (await reader.readline()).split()[1] in (b"400", b"403")
    writer.close()


async def asyncio_open(client: TestClient):  # type: ignore[no-untyped-def]
    import asyncio

    return await asyncio.open_connection(client.host, client.port)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("http://localhost:3000", 403),  # a page of another program on this machine is another origin
        ("null", 403),
        ("vscode-webview://0a1b2c", 200),
        ("https://notes.example", 200),
        ("https://notes.example.evil.example", 403),
        ("https://sub.notes.example", 403),
    ],
)
async def test_web_pages_must_be_allowed(connect: Connect, origin: str, status: int) -> None:
    client = await connect(Access(origins=("vscode-webview://*", "https://notes.example")))
    response = await client.post("/v1/embeddings", json=BODY, headers={"Origin": origin})
    assert response.status == status
    allowed = response.headers.get("Access-Control-Allow-Origin")
    assert allowed == (origin if status == 200 else None)
    assert "Access-Control-Allow-Credentials" not in response.headers
    preflight = await client.options(
        "/v1/embeddings",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert preflight.status == (204 if status == 200 else 403)
    assert preflight.headers.get("Access-Control-Allow-Headers") == ("content-type" if status == 200 else None)


async def test_the_servers_own_page_is_allowed(connect: Connect) -> None:
    client = await connect(Access())
    own = f"http://{client.host}:{client.port}"
    assert (await client.post("/v1/embeddings", json=BODY, headers={"Origin": own})).status == 200


async def test_images_on_other_sites_are_refused_but_links_are_not(connect: Connect) -> None:
    client = await connect(Access())
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await client.get("/v1/models", headers=image)).status == 403
    assert (await client.get("/v1/models", headers=link)).status == 200
    assert (await client.post("/v1/embeddings", json=BODY, headers=link)).status == 403


async def test_keys_are_required(connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nide: sesame\n  plain-key  \n")
    client = await connect(Access(keys=Keys.read("from-settings", str(file)), check_host=False))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}, {"Authorization": "Bearer "}):
        response = await client.post("/v1/embeddings", json=BODY, headers=headers)
        assert response.status == 401, headers
        assert (await response.json())["error"]["code"] == "invalid_api_key"
    caplog.set_level("DEBUG", "edgeembed")
    for headers in (
        {"Authorization": "Bearer sesame"},
        {"authorization": "bearer plain-key"},
        {"Authorization": "Bearer from-settings"},
        {"api-key": "sesame"},
        {"x-api-key": "sesame", "Host": "any.name.example"},
    ):
        assert (await client.post("/v1/embeddings", json=BODY, headers=headers)).status == 200, headers
    assert (await client.get("/health")).status == 200, "probes need no key"
    assert (await client.get("/v1/status")).status == 401
    assert " ide" in caplog.text and "sesame" not in caplog.text and "plain-key" not in caplog.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no API keys"),
        ("\n \n\t\n", "has no API keys"),
        ("# nothing\n", "has no API keys"),
        ("name:\n", "line 1: the API key is empty"),
        ("name: \n", "line 1: the API key is empty"),
        ("# ours\n\nsk:with:colons\n", "line 3: a colon without a space"),
        ("name:sesame\n", "line 1: a colon without a space"),
        ("https://sesame\n", "line 1: a colon without a space"),
        ("sesame and more\n", "line 1: the API key contains a space"),
        ("name: sesame and more\n", "line 1: the API key contains a space"),
        ("sesa\0me\n", "line 1: the API key contains a space"),
    ],
)
def test_a_line_that_is_no_key_is_an_error_that_does_not_show_it(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(text.encode())
    with pytest.raises(ConfigError, match=reason) as caught:
        Keys.read(None, str(file))
    assert "sesa" not in str(caught.value) and "sk" not in str(caught.value)


def test_a_key_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the API keys"):
        Keys.read(None, str(tmp_path / "missing"))
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        Keys.read(None, str(tmp_path / "keys"))
    assert not Keys.read(None, None)


def test_a_named_key_may_have_colons_and_editors_may_add_a_mark_and_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbffirst\r\n\r\nide:  sk:with:colons \r\n")
    keys = Keys.read(None, str(file))
    assert (keys.name_of("first"), keys.name_of("sk:with:colons")) == ("key 1", "ide")
    assert keys.name_of("") is None and keys.name_of("with:colons") is None


@pytest.mark.parametrize("key", ["", " ", "sesame ", "\tsesame", "sesame\n", "ses ame", "sesame\x01", "\u200bsesame"])
def test_a_key_that_no_client_can_send_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError, match=r"the API key (is empty|contains a space)") as caught:
        Keys.read(key, None)
    assert "ame" not in str(caught.value).replace("name", "")
