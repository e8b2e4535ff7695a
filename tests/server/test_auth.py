"""Access: Host (DNS rebinding), Origin (web pages), API keys."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from click.testing import CliRunner

from edgeembed.cli.config import config
from edgeembed.config.resolution import resolve
from edgeembed.config.settings import Settings
from edgeembed.errors import ConfigError, OverloadedError
from edgeembed.server.api_keys import Keys
from edgeembed.server.app import make_app
from edgeembed.server.auth import DESKTOP_APPS, Access
from edgeembed.server.dashboard import SCRIPTS, STYLES
from edgeembed.server.lifecycle import make_access
from edgeembed.server.ops.openapi import served
from tests.fakes import FakeEngine, fake_service
from tests.server.dialect_requests import daemon

OWNERS = [
    *(("POST", f"/v1/admin/{what}") for what in ("pause", "resume", "shutdown", "cache/clear")),
    *(("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/copy")),
]
"""Routes for the server's owner."""
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


# --- what a page may read ---------------------------------------------------------------------------------------------

FRIEND, STRANGER = "https://friend.example", "https://evil.example"
ERRORS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "no key": ("POST", "/v1/embeddings", {"json": BODY, "headers": {"Authorization": ""}}, 401),
    "admin": ("POST", "/v1/admin/pause", {}, 404),
    "unknown path": ("GET", "/v1/nothing", {}, 404),
    "unknown model": ("POST", "/v1/embeddings", {"json": {**BODY, "model": "nobody"}}, 404),
    "method": ("DELETE", "/v1/embeddings", {}, 405),
    "no JSON": ("POST", "/api/embed", {"data": "{"}, 400),
    "not gzip": ("POST", "/v1/embeddings", {"data": "{", "headers": {"Content-Encoding": "gzip"}}, 400),
    "too large": ("POST", "/v1/embeddings", {"data": b" " * 3000}, 413),
    "bug": ("POST", "/v1/embeddings", {"json": {"input": "bug"}}, 500),
    "overload": ("POST", "/v1/embeddings", {"json": {"input": "full"}}, 429),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_a_page_reads_errors_if_its_origin_is_allowed(aiohttp_client: Any, name: str) -> None:
    errors: dict[str, Any] = {"bug": RuntimeError("a bug"), "full": OverloadedError("the queue is full")}
    engine = FakeEngine()
    engine.failing = errors.get
    access = Access(keys=Keys.read("sesame", None), origins=[FRIEND])
    client = await aiohttp_client(make_app(fake_service(engine), access=access, max_body_bytes=2000))
    method, path, options, status = ERRORS[name]
    for origin in (FRIEND, STRANGER):
        headers = {"Authorization": "Bearer sesame", "Origin": origin, **options.get("headers", {})}
        response = await client.request(method, path, **{**options, "headers": headers})
        found = {key.lower(): value for key, value in response.headers.items() if key.startswith("Access-Control-")}
        if origin == STRANGER:
            assert (response.status, found) == (403, {})
            continue
        assert response.status == status
        assert found.pop("access-control-allow-origin") == origin and response.headers["Vary"] == "Origin"
        exposed = found.pop("access-control-expose-headers").lower().split(", ")
        assert set(exposed) >= {"x-request-id"} | ({"allow"} if status == 405 else set())
        assert not found


async def test_all_headers_of_an_answer_can_be_read(connect: Connect) -> None:
    client = await connect(Access(origins=[FRIEND]))
    response = await client.post("/v1/embeddings", json=BODY, headers={"Origin": FRIEND})
    exposed = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
    assert {name.lower() for name in response.headers if name.startswith("X-")} <= set(exposed)
    assert {"x-edgeembed-cache", "x-edgeembed-digest", "x-request-id"} <= set(exposed)


@pytest.mark.parametrize(("origin", "allowed"), [(FRIEND, "true"), (STRANGER, None)])
async def test_a_preflight_request_may_ask_for_methods_headers_and_the_private_network(
    connect: Connect, origin: str, allowed: str | None
) -> None:
    client = await connect(Access(origins=[FRIEND], keys=Keys.read("sesame", None)))
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization",
    }
    response = await client.options("/api/delete", headers={**headers, "Access-Control-Request-Private-Network": "true"})
    assert response.headers.get("Access-Control-Allow-Private-Network") == allowed
    assert ("DELETE" in response.headers.get("Access-Control-Allow-Methods", "")) == (origin == FRIEND)
    assert response.headers.get("Access-Control-Allow-Headers") == ("authorization" if origin == FRIEND else None)
    assert "Access-Control-Allow-Private-Network" not in (await client.options("/", headers=headers)).headers


async def test_the_origin_null_is_never_allowed(connect: Connect) -> None:
    client = await connect(Access(origins=["*", "null"]))
    response = await client.post("/v1/embeddings", json=BODY, headers={"Origin": "null"})
    assert response.status == 403 and "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    ("origin", "app"),
    [
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("http://tauri.localhost", True),
        ("https://tauri.localhost", True),
        ("vscode-webview://0a1b2c", True),
        (FRIEND, False),
        ("app://obsidian.md.evil.example", False),
        ("app://other", False),
        ("http://tauri.localhost:8080", False),
        ("http://tauri.localhost.evil.example", False),
        ("http://localhost", False),
        ("http://vscode-webview.evil.example", False),
        ("capacitor://localhost", False),
        ("chrome-extension://abcdefghijklmnop", False),
        ("file://", False),
        ("null", False),
    ],
)
async def test_allow_desktop_apps_opens_these_origins_only(
    aiohttp_client: Any, home: Path, on: bool, origin: str, app: bool
) -> None:
    access = make_access(Settings(allow_desktop_apps=on, allowed_origins=(FRIEND,)))
    client = await aiohttp_client(daemon(access=access).app)
    response = await client.post("/v1/embeddings", json=BODY, headers={"Origin": origin})
    expected = 200 if (app and on) or origin == FRIEND else 403
    assert response.status == expected
    assert response.headers.get("Access-Control-Allow-Origin") == (origin if expected == 200 else None)
    for method, path in OWNERS:
        owned = await client.request(method, path, json={"model": "nobody"}, headers={"Origin": origin})
        assert owned.status == 403, f"no page administers: {method} {path}"


def test_allowed_origins_are_added_to_the_desktop_apps() -> None:
    assert set(make_access(Settings(allowed_origins=(FRIEND,))).origins) == {FRIEND, *DESKTOP_APPS}
    assert make_access(Settings(allow_desktop_apps=False)).origins == ()


@pytest.mark.parametrize(
    ("header", "value", "command"),
    [
        ("Host", "box.example:8327", "edgeembed config add allowed_hosts box.example"),
        ("Host", "$(reboot).example", "edgeembed config add allowed_hosts NAME"),
        ("Host", "x;reboot", "edgeembed config add allowed_hosts NAME"),
        ("Origin", "https://notes.example:8443", "edgeembed config add allowed_origins https://notes.example:8443"),
        ("Origin", "https://*", "edgeembed config add allowed_origins ORIGIN"),
        ("Origin", "https://x`reboot`", "edgeembed config add allowed_origins ORIGIN"),
        ("Origin", "tauri://localhost", "edgeembed config set allow_desktop_apps true"),
    ],
)
async def test_a_refusal_names_the_command_that_allows_it(
    connect: Connect, home: Path, header: str, value: str, command: str
) -> None:
    response = await (await connect(Access())).post("/v1/embeddings", json=BODY, headers={header: value})
    message = (await response.json())["error"]["message"]
    assert response.status == 403 and f"`{command}`" in message
    if not command.endswith(("NAME", "ORIGIN")):
        # In a thread, as the command asks the daemon with an event loop of its own.
        assert (await asyncio.to_thread(CliRunner().invoke, config, shlex.split(command)[2:])).exit_code == 0
        settings = resolve({}, {"EDGEEMBED_HOME": str(home)}).settings
        assert (await (await connect(make_access(settings))).post("/v1/embeddings", json=BODY, headers={header: value})).ok


@pytest.mark.parametrize(
    ("host", "beyond"),
    [
        ("host.docker.internal:8327", 200),
        ("host.containers.internal", 200),
        ("gateway.docker.internal", 200),
        ("edgeembed:8327", 200),  # a compose service
        ("embed_1", 200),
        ("nas.local", 200),
        ("embed.svc.cluster.local", 200),
        ("192.0.2.1:8327", 200),
        ("evil.example", 403),
        ("host.docker.internal.evil.example", 403),
        ("internal.example", 403),
        ("evil.com.", 403),
        ("", 403),
    ],
)
async def test_names_that_nobody_can_register_are_ours_beyond_loopback(connect: Connect, host: str, beyond: int) -> None:
    anywhere = await connect(make_access(Settings(host="0.0.0.0", no_auth=True)))
    assert (await anywhere.post("/v1/embeddings", json=BODY, headers={"Host": host})).status == beyond
    local = await connect(make_access(Settings()))
    assert (await local.post("/v1/embeddings", json=BODY, headers={"Host": host})).status == 403
    if not host.startswith("192."):
        page = {"Host": host, "Origin": f"http://{host}"}
        refused = await anywhere.post("/v1/embeddings", json=BODY, headers=page)
        assert refused.status == 403, "a name that the network's DNS has rebound"
        assert "Access-Control-Allow-Origin" not in refused.headers


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


async def test_all_routes_but_probes_and_the_empty_page_need_a_key(aiohttp_client: Any, home: Path) -> None:
    server = daemon(access=Access(keys=Keys.read("sesame", None)))
    client = await aiohttp_client(server.app)
    opened = set()
    for method, path in served(server.app):
        response = await client.request(method, path.replace("{name}", "embedder"), json=None if method == "GET" else {})
        if response.status != 401:
            opened.add(f"{method} {path}")
    probes = {"GET /health", "GET /livez", "GET /readyz"}
    assert opened == probes | {"GET /", "GET /recipes.json"} | {f"GET /{name}" for name in (*SCRIPTS, *STYLES)}


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
