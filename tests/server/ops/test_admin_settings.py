"""The owner's routes about settings, keys, aliases, origins, the log and the cache."""

from __future__ import annotations

import logging
import socket
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, make_mocked_request

from edgeembed.common.logs import MOST_RECENT, keep_line, setup_logging
from edgeembed.config.secrets import read_key_file, secret_names
from edgeembed.config.settings import Settings
from edgeembed.server.api_keys import Keys
from edgeembed.server.auth import Access
from edgeembed.server.owner import may_change_machine
from tests.server.dialect_requests import daemon, get, post
from tests.server.machine import Machine

Connect = Callable[..., Awaitable[TestClient]]
NAMES = [field.name for field in msgspec.structs.fields(Settings)]


@pytest.fixture
def connect(tmp_path: Path, home: Path, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> Connect:
    async def connect(access: dict[str, Any] | None = None, **settings: Any) -> TestClient:
        machine = Machine(tmp_path, **settings)
        client = await aiohttp_client(machine.app(**(access or {})))
        client.machine = machine
        return client

    return connect


def config(client: TestClient) -> dict[str, Any]:
    file = client.machine.paths.config_file
    return tomllib.loads(file.read_text()) if file.exists() else {}


async def settings_of(client: TestClient) -> dict[str, dict[str, Any]]:
    status, answer = await get(client, "/v1/admin/settings")
    assert status == 200
    return {each["name"]: each for each in answer["settings"]}


# --- settings ---------------------------------------------------------------------------------------------------------


async def test_every_setting_is_listed_with_what_it_may_be(connect: Connect) -> None:
    found = await settings_of(await connect())
    assert list(found) == NAMES
    assert all(each["description"] for each in found.values())
    port, level, device = found["port"], found["log_level"], found["keep_alive_of"]
    assert (port["kind"], port["minimum"], port["maximum"], port["value"]) == ("integer", 0, 65535, 8327)
    assert (level["kind"], level["choices"]) == ("choice", ["debug", "info", "warning", "error"])
    assert device["kind"] == "table" and found["preload"]["kind"] == "list"
    assert found["cache"]["kind"] == "boolean" and found["keep_alive"]["kind"] == "duration"
    assert found["upstream"]["kind"] == "URL" and found["certfile"]["kind"] == "file"
    assert not any(each["restart_needed"] for each in found.values())


async def test_sources_are_named_and_what_hides_config_toml(connect: Connect) -> None:
    client = await connect(origins={"port": "flag", "threads": "environment"}, port=9000, threads=3)
    client.machine.paths.config_file.write_text("port = 9001\nthreads = 4\nmax_request_texts = 7\n")
    found = await settings_of(client)
    assert [found[name]["source"] for name in ("port", "threads", "model")] == ["flag", "variable", "default"]
    assert (found["port"]["value"], found["port"]["written"], found["port"]["restart_needed"]) == (9000, 9001, False)
    assert "--port" in found["port"]["note"] and "EDGEEMBED_THREADS" in found["threads"]["note"]
    edited = found["max_request_texts"]
    assert (edited["value"], edited["written"], edited["restart_needed"], edited["note"]) == (2048, 7, True, None)


async def test_a_change_is_written_and_says_that_it_needs_a_restart(connect: Connect) -> None:
    client = await connect()
    client.machine.paths.config_file.write_text("# mine\nport = 8327\n")
    status, changed = await post(client, "/v1/admin/settings", name="threads", value=3)
    assert (status, changed["value"], changed["written"], changed["restart_needed"]) == (200, 0, 3, True)
    assert config(client) == {"port": 8327, "threads": 3} and "# mine" in client.machine.paths.config_file.read_text()
    assert (await get(client, "/v1/admin/settings"))[1]["restart_needed"] is True
    status, changed = await post(client, "/v1/admin/settings", name="threads", value=None)
    assert (status, changed["written"], changed["restart_needed"]) == (200, None, False)
    assert config(client) == {"port": 8327}


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("threads", "3", 3),
        ("cache", "false", False),
        ("preload", "tiny,bge-m3", ["tiny", "bge-m3"]),
        ("preload", ["tiny:F32"], ["tiny:F32"]),
        ("keep_alive_of", {"tiny": "5m"}, {"tiny": "5m"}),
        ("keep_alive", "1h", "1h"),
        ("gpu_layers", 3, "3"),
    ],
)
async def test_values_are_taken_as_on_the_command_line(connect: Connect, name: str, value: Any, written: Any) -> None:
    client = await connect()
    status, changed = await post(client, "/v1/admin/settings", name=name, value=value)
    assert status == 200, changed
    assert config(client) == {name: written} and changed["written"] == written


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("port", 70000, "65535"),
        ("port", "many", "port"),
        ("log_level", "loud", "debug, info"),
        ("keep_alive", "soon", "keep_alive"),
        ("device", "toaster", "expected auto, cpu"),
        ("nothing", 1, "unknown setting"),
        ("prot", 1, "Did you mean 'port'"),
        ("upstream", "http://user:secret@box/v1", "must not contain"),
        ("api_key", "two words", "contains a space"),
        ("model", "all-minilm-l6-v3", "all-minilm-l6-v2"),
        ("pin", ["tiny", "tinny"], "tiny"),
        ("aliases", {"a": "nothing:query"}, "nothing"),
    ],
)
async def test_bad_values_are_refused_and_not_written(connect: Connect, name: str, value: Any, words: str) -> None:
    client = await connect()
    status, refused = await post(client, "/v1/admin/settings", name=name, value=value)
    assert status == 400 and words in refused["error"]["message"] and config(client) == {}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("certfile", "/nowhere.pem", "cannot use certfile"),
        ("api_key_file", "/nowhere", "cannot read the API keys"),
        ("keyfile", "/nowhere.pem", "without certfile"),
    ],
)
async def test_what_would_keep_the_daemon_from_starting_is_refused(
    connect: Connect, name: str, value: Any, words: str
) -> None:
    client = await connect({"keys": Keys.read("sesame", None), "check_host": False})
    body = {"name": name, "value": value}
    response = await client.post("/v1/admin/settings", json=body, headers=bearer("sesame"))
    assert response.status == 409 and words in (await response.json())["error"]["message"] and config(client) == {}


@pytest.mark.parametrize(
    ("name", "value", "elsewhere"),
    [
        ("threads", 3, 200),
        ("model", "hf:acme/tiny-GGUF:tiny.gguf", 200),
        ("preload", ["tiny"], 200),
        ("forward", "http://box:8000/v1", 403),
        ("upstream", "http://box:8000/v1", 403),
        ("upstream_key", "sesame", 403),
        ("api_key_file", "/etc/passwd", 403),
        ("uds", "/tmp/socket", 403),
        ("sandbox", "off", 403),
        ("allowed_hosts", ["box.example"], 403),
        ("model", "BAAI/bge-m3", 200),
        ("model", "~/file.gguf", 403),
        ("model", "~/letter", 403),
        ("pin", ["tiny", "~/file.gguf"], 403),
        ("aliases", {"a": "~/file.gguf"}, 403),
        ("aliases", {"a": "~/file.gguf:query"}, 403),
        ("upstream_fallback", "~/file.gguf", 403),
        ("uds", None, 403),
    ],
)
async def test_who_has_a_key_on_another_machine_names_no_files_and_no_servers(
    connect: Connect, name: str, value: Any, elsewhere: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for file in ("file.gguf", "letter"):
        (tmp_path / file).touch()
    client = await connect({"keys": Keys.read("sesame", None), "check_host": False})
    away = {**bearer("sesame"), "X-Forwarded-For": "203.0.113.9"}
    body = {"name": name, "value": value}
    response = await client.post("/v1/admin/settings", json=body, headers=away)
    assert response.status == elsewhere
    assert bool(config(client)) == (elsewhere == 200)
    if elsewhere == 403:
        assert "edgeembed config set" in (await response.json())["error"]["message"]
        client.machine.paths.config_file.unlink(missing_ok=True)
        assert (await client.post("/v1/admin/settings", json=body, headers=bearer("sesame"))).status in (200, 409)


async def test_another_user_of_the_machine_names_no_files_and_no_servers(connect: Connect) -> None:
    """Without a key, every user of the machine may connect to the port."""
    client = await connect()
    for name, value in (("access_log", "/home/me/.bashrc"), ("forward", "http://box:8000/v1"), ("sandbox", "off")):
        assert (await post(client, "/v1/admin/settings", name=name, value=value))[0] == 403
    assert config(client) == {}
    assert (await post(client, "/v1/admin/settings", name="threads", value=3))[0] == 200


async def test_over_a_unix_socket_the_user_of_the_daemon_may(home: Path) -> None:
    app = daemon().app
    request = make_mocked_request("POST", "/v1/admin/settings", headers={"Host": "localhost"}, app=app)
    assert may_change_machine(request.clone(remote="")) and not may_change_machine(request.clone(remote="127.0.0.1"))


async def test_a_model_that_is_not_installed_is_written_and_said(connect: Connect) -> None:
    client = await connect()
    status, changed = await post(client, "/v1/admin/settings", name="model", value="bge-m3")
    assert status == 200 and "edgeembed pull bge-m3" in changed["note"]


async def test_a_port_that_is_in_use_is_refused_before_the_daemon_is_gone(connect: Connect) -> None:
    client = await connect(host="127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, refused = await post(client, "/v1/admin/settings", name="port", value=port)
        assert status == 409 and f"{port} is in use" in refused["error"]["message"] and config(client) == {}
        client.machine.paths.config_file.write_text(f"port = {port}\n")
        response = await client.post("/v1/admin/restart")
        assert response.status == 409 and f"{port} is in use" in (await response.json())["error"]["message"]


async def test_a_model_that_exists_nowhere_keeps_a_daemon_from_starting_again(connect: Connect) -> None:
    client = await connect()
    client.machine.paths.config_file.write_text('model = "nothing"\n')
    response = await client.post("/v1/admin/restart")
    assert response.status == 409 and "nothing" in (await response.json())["error"]["message"]


async def test_a_key_file_that_was_not_made_here_is_not_removed(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "letter"
    file.write_text("dear\n")
    client = await connect(api_key_file=str(file), origins={"api_key_file": "config.toml"})
    refused = await client.post("/v1/admin/keys/delete", json={"name": "key 1"})
    assert refused.status == 409 and file.read_text() == "dear\n"


async def test_secrets_are_written_and_never_shown(connect: Connect) -> None:
    access = {"keys": Keys.read("the-key", None), "check_host": False}
    client = await connect(access, upstream_key="sesame-in-effect", origins={"upstream_key": "environment"})
    for name in secret_names():
        secret = f"redis://user:sesame-{name}@localhost" if name == "cache_url" else f"sesame-{name}"
        body = {"name": name, "value": secret}
        response = await client.post("/v1/admin/settings", json=body, headers=bearer("the-key"))
        changed = await response.json()
        assert (response.status, changed["value"], changed["written"], changed["secret"]) == (200, None, None, True)
        assert config(client)[name] == secret
        body = {"name": name, "value": "sesame with spaces"}
        response = await client.post("/v1/admin/settings", json=body, headers=bearer("the-key"))
        assert response.status == 400 and "sesame" not in await response.text()
    response = await client.get("/v1/admin/settings", headers=bearer("the-key"))
    assert "sesame" not in await response.text()
    found = {each["name"]: each for each in (await response.json())["settings"]}
    assert found["upstream_key"]["is_set"] is True and found["forward_key"]["restart_needed"] is True
    assert client.machine.paths.config_file.stat().st_mode & 0o077 == 0


async def test_the_log_level_and_aliases_take_effect_at_once(connect: Connect) -> None:
    client = await connect()
    status, changed = await post(client, "/v1/admin/settings", name="log_level", value="debug")
    assert (status, changed["value"], changed["restart_needed"]) == (200, "debug", False)
    assert logging.getLogger("edgeembed").level == logging.DEBUG
    assert (await post(client, "/v1/admin/settings", name="aliases", value={"short": "tiny"}))[1]["restart_needed"] is False
    assert (await post(client, "/v1/embeddings", model="short", input="a"))[0] == 200
    await post(client, "/v1/admin/settings", name="aliases", value=None)
    assert (await post(client, "/v1/embeddings", model="short", input="a"))[0] == 404


async def test_the_choice_of_the_first_start_needs_no_restart(connect: Connect) -> None:
    client = await connect()
    default = client.machine.service.registry.default
    client.machine.paths.config_file.write_text(f'model = "{default.spec}"\n')
    assert (await settings_of(client))["model"]["restart_needed"] is False
    client.machine.paths.config_file.write_text('model = "another"\n')
    assert (await settings_of(client))["model"]["restart_needed"] is True


async def test_a_file_that_is_being_edited_is_a_conflict(connect: Connect) -> None:
    client = await connect()
    client.machine.paths.config_file.write_text("port = ")
    assert (await get(client, "/v1/admin/settings"))[0] == 409
    assert (await post(client, "/v1/admin/settings", name="threads", value=1))[0] == 409
    assert client.machine.paths.config_file.read_text() == "port = "


# --- API keys ---------------------------------------------------------------------------------------------------------


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_the_first_key_locks_the_server_at_once_and_the_last_one_opens_it(connect: Connect) -> None:
    client = await connect()
    assert await get(client, "/v1/admin/keys") == (200, {"keys": [], "note": None})
    status, made = await post(client, "/v1/admin/keys", name="notebook")
    assert status == 200 and "first API key" in made["note"] and len(made["key"]) >= 40
    file = Path(config(client)["api_key_file"])
    assert file.stat().st_mode & 0o077 == 0 and f"notebook: {made['key']}" in file.read_text()
    assert read_key_file(str(file)) == [("notebook", made["key"])], "commands of this machine find it by the settings"
    assert (await get(client, "/v1/models"))[0] == 401, "in effect at once"
    allowed = bearer(made["key"])
    assert (await client.get("/v1/models", headers=allowed)).status == 200
    second = await (await client.post("/v1/admin/keys", json={"name": "ci"}, headers=allowed)).json()
    assert second["note"] is None and second["key"] != made["key"]
    listed = await client.get("/v1/admin/keys", headers=allowed)
    shown = await listed.json()
    assert [(each["name"], each["removable"]) for each in shown["keys"]] == [("notebook", True), ("ci", True)]
    assert made["key"] not in await listed.text() and second["key"] not in await listed.text()
    gone = await client.post("/v1/admin/keys/delete", json={"name": "notebook"}, headers=bearer(second["key"]))
    assert [each["name"] for each in (await gone.json())["keys"]] == ["ci"]
    assert (await client.get("/v1/models", headers=allowed)).status == 401, "refused at once"
    last = await client.post("/v1/admin/keys/delete", json={"name": "ci"}, headers=bearer(second["key"]))
    assert "no API key is left" in (await last.json())["note"]
    assert not file.exists() and config(client) == {}
    assert (await get(client, "/v1/models"))[0] == 200
    assert (await client.get("/v1/models", headers={"Host": "evil.example"})).status == 403, "the Host is checked again"


async def test_keys_of_a_file_are_kept_with_its_comments(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nide: abcdefgh\n\nplain-key\n")
    client = await connect(api_key_file=str(file), origins={"api_key_file": "flag"}, api_key="sesame")
    assert [each["name"] for each in (await get(client, "/v1/admin/keys"))[1]["keys"]] == ["default", "ide", "key 2"]
    status, made = await post(client, "/v1/admin/keys", name="new")
    assert status == 200 and file.read_text() == f"# ours\nide: abcdefgh\n\nplain-key\nnew: {made['key']}\n"
    assert config(client) == {}, "the flag names the file"
    allowed = bearer("sesame")
    for name in ("key 2", "ide"):
        assert (await client.post("/v1/admin/keys/delete", json={"name": name}, headers=allowed)).status == 200
    assert file.read_text() == f"# ours\n\nnew: {made['key']}\n"
    last = await client.post("/v1/admin/keys/delete", json={"name": "new"}, headers=allowed)
    assert last.status == 409 and "make another one first" in (await last.json())["error"]["message"]
    setting = await client.post("/v1/admin/keys/delete", json={"name": "default"}, headers=allowed)
    assert setting.status == 409 and file.exists()


async def test_keys_that_were_given_up_are_not_valid_again_with_a_new_one(connect: Connect) -> None:
    client = await connect()
    before = client.machine.paths.config_file.parent / "api-keys"
    before.write_text("leaked: abcdefgh\n")
    status, refused = await post(client, "/v1/admin/keys", name="new")
    assert status == 409 and str(before) in refused["error"]["message"]
    assert before.read_text() == "leaked: abcdefgh\n" and config(client) == {}
    assert (await get(client, "/v1/models"))[0] == 200


async def test_the_last_key_of_a_daemon_on_the_network_stays(connect: Connect) -> None:
    client = await connect(host="0.0.0.0")
    key = (await post(client, "/v1/admin/keys", name="only"))[1]["key"]
    refused = await client.post("/v1/admin/keys/delete", json={"name": "only"}, headers=bearer(key))
    assert refused.status == 409 and "everybody could use this server" in (await refused.json())["error"]["message"]
    assert (await get(client, "/v1/models"))[0] == 401


@pytest.mark.parametrize("name", ["", "a: b", "a\nb", "#a", "x" * 65, " a", "a:"])
async def test_names_of_keys_that_a_key_file_cannot_have_are_refused(connect: Connect, name: str) -> None:
    client = await connect()
    assert (await post(client, "/v1/admin/keys", name=name))[0] == 400
    assert (await get(client, "/v1/admin/keys"))[1]["keys"] == []


async def test_names_of_keys_are_unique(connect: Connect) -> None:
    client = await connect()
    key = (await post(client, "/v1/admin/keys", name="ide"))[1]["key"]
    for name in ("IDE", "default"):
        response = await client.post("/v1/admin/keys", json={"name": name}, headers=bearer(key))
        assert response.status == 409
    assert (await client.post("/v1/admin/keys/delete", json={"name": "nobody"}, headers=bearer(key))).status == 404


# --- aliases, origins -------------------------------------------------------------------------------------------------


async def test_aliases_are_added_changed_and_removed_at_once(connect: Connect) -> None:
    client = await connect()
    assert (await get(client, "/v1/admin/aliases"))[1]["aliases"] == {}
    status, found = await post(client, "/v1/admin/aliases", name="text-embedding-3-small", model="tiny")
    assert (status, found["aliases"]) == (200, {"text-embedding-3-small": "tiny:F32"})
    assert config(client) == {"aliases": {"text-embedding-3-small": "tiny:F32"}}
    assert (await post(client, "/v1/embeddings", model="text-embedding-3-small", input="a"))[0] == 200
    assert (await settings_of(client))["aliases"]["restart_needed"] is False
    assert (await post(client, "/v1/admin/aliases", name="text-embedding-3-small", model="tiny:query"))[0] == 200
    assert (await get(client, "/v1/admin/aliases"))[1]["aliases"] == {"text-embedding-3-small": "tiny:F32:query"}
    status, found = await post(client, "/v1/admin/aliases", name="text-embedding-3-small", model=None)
    assert (status, found["aliases"], config(client).get("aliases")) == (200, {}, {})
    assert (await post(client, "/v1/embeddings", model="text-embedding-3-small", input="a"))[0] == 404


@pytest.mark.parametrize(
    ("name", "model", "status"),
    [("a b", "tiny", 400), ("tiny", "embedder", 400), ("a", "nobody", 404), ("nobody", None, 404)],
)
async def test_bad_aliases_are_refused(connect: Connect, name: str, model: str | None, status: int) -> None:
    client = await connect()
    assert (await post(client, "/v1/admin/aliases", name=name, model=model))[0] == status
    assert config(client) == {}


async def test_origins_are_allowed_and_refused_at_once(connect: Connect) -> None:
    client = await connect()
    page = {"Origin": "https://notes.example"}

    async def asked() -> int:
        return (await client.post("/v1/embeddings", json={"input": "a"}, headers=page)).status

    assert await asked() == 403
    status, found = await post(client, "/v1/admin/origins", origins=["https://notes.example/", "https://notes.example"])
    assert (status, found["origins"], found["desktop_apps"]) == (200, ["https://notes.example"], True)
    assert await asked() == 200
    assert (await client.post("/v1/admin/pause", headers=page)).status == 403, "it embeds, and does not administer"
    assert config(client) == {"allowed_origins": ["https://notes.example"]}
    assert (await post(client, "/v1/admin/origins", origins=[], desktop_apps=False))[0] == 200
    assert await asked() == 403
    app = {"Origin": "app://obsidian.md"}
    assert (await client.post("/v1/embeddings", json={"input": "a"}, headers=app)).status == 403
    assert not (await get(client, "/v1/admin/origins"))[1]["desktop_apps"]


@pytest.mark.parametrize(
    "origin", ["null", "notes.example", "https://notes.example/page", "https://a,https://b", "", "https://"]
)
async def test_what_is_no_origin_is_refused(connect: Connect, origin: str) -> None:
    client = await connect()
    assert (await post(client, "/v1/admin/origins", origins=[origin]))[0] == 400
    assert config(client) == {}


# --- the log, the cache -----------------------------------------------------------------------------------------------


async def test_the_tail_of_the_log(connect: Connect, capsys: pytest.CaptureFixture[str]) -> None:
    client = await connect()
    setup_logging("info")
    log = logging.getLogger("edgeembed.test")
    log.info("first")
    log.warning("second\nforged line")
    keep_line("ready: all is well")
    logging.getLogger("other").error("text of a request")
    log.debug("not logged")

    async def tail(query: str = "") -> list[dict[str, Any]]:
        status, answer = await get(client, f"/v1/admin/log{query}")
        assert status == 200
        return [line for line in answer["lines"] if "HTTP" not in line["message"]]

    lines = await tail()
    assert [line["message"].partition("\n")[0] for line in lines[:3]] == ["first", "second", "ready: all is well"]
    assert [line["level"] for line in lines[:4]] == ["info", "warning", "info", "error"]
    assert lines[1]["message"] == "second\n  forged line", "later lines are indented, as in the log"
    assert "text of a request" not in str(lines) and lines[0]["time"].endswith("Z")
    assert [line["number"] for line in lines] == sorted({line["number"] for line in lines})
    assert [line["level"] for line in await tail("?level=warning")] == ["warning", "error"]
    assert len((await get(client, "/v1/admin/log?lines=2"))[1]["lines"]) == 2
    for number in range(MOST_RECENT + 10):
        keep_line(f"line {number}")
    lines = await tail(f"?lines={MOST_RECENT}")
    assert len(lines) <= MOST_RECENT and f"line {MOST_RECENT + 9}" in [line["message"] for line in lines]


@pytest.mark.parametrize("query", ["level=loud", "lines=0", "lines=1001", "lines=-1", "lines=x", "lines=²", "lines=1e9"])
async def test_bad_queries_of_the_log_are_refused(connect: Connect, query: str) -> None:
    assert (await get(await connect(), f"/v1/admin/log?{query}"))[0] == 400


async def test_what_the_cache_holds(aiohttp_client: Callable[..., Awaitable[TestClient]], home: Path) -> None:
    client = await aiohttp_client(daemon(access=Access()).app)
    assert (await post(client, "/v1/embeddings", input=["one", "two"]))[0] == 200
    status, found = await get(client, "/v1/admin/cache")
    assert (status, found["rows"], found["folder"], found["disk_bytes"]) == (200, 2, None, 0)
    assert 0 < found["memory_bytes"] < found["memory_limit_bytes"]
