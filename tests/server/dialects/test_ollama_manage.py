"""Ollama's routes that change what is installed: what they do, and who may use them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.common.pull_lines import PullLine
from edgeembed.config.settings import Settings
from edgeembed.models.served_model import served
from edgeembed.server.api_keys import Keys
from edgeembed.server.live_settings import LiveSettings
from edgeembed.server.model_manager import ModelManager
from tests.e2e.models import install
from tests.server.dialect_requests import get, post, resolved
from tests.server.machine import Machine

AWAY = {"X-Forwarded-For": "203.0.113.9"}
PAGE = {"Origin": "https://app.example"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
async def client(machine: Machine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(machine.app())


async def delete(client: TestClient, **body: Any) -> tuple[int, str]:
    response = await client.delete("/api/delete", json=body)
    return response.status, await response.text()


async def lines_of(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/api/pull", json=body)
    assert (response.status, response.content_type) == (200, "application/x-ndjson")
    return [json.loads(line) for line in (await response.text()).splitlines()]


async def names(client: TestClient) -> list[str]:
    return [model["name"] for model in (await get(client, "/api/tags"))[1]["models"]]


# --- pull -------------------------------------------------------------------------------------------------------------


async def test_a_pull_streams_its_progress(client: TestClient, machine: Machine) -> None:
    machine.lines = [
        PullLine(message="new: downloading 25 MB"),
        PullLine(what="new.gguf", done=5, total=10),
        PullLine(what="new.gguf", done=10, total=10),
        PullLine(installed="new:Q8_0"),
    ]
    bar = {"status": "pulling: new.gguf", "digest": "new.gguf", "total": 10}
    for more in ({}, {"stream": True}, {"stream": None, "insecure": True}):
        assert await lines_of(client, model="new", **more) == [
            {"status": "pulling manifest"},
            {"status": "new: downloading 25 MB"},
            {**bar, "completed": 5},
            {**bar, "completed": 10},
            {"status": "installed as new:Q8_0"},
            {"status": "success"},
        ]
    assert await post(client, "/api/pull", name="new", stream=False) == (200, {"status": "success"})
    assert machine.pulled == ["new"] * 4


@pytest.mark.parametrize(
    ("given", "pulled"),
    [
        ("new:latest", "new"),
        ("new:F16", "new:F16"),
        ("hf.co/Acme/New-GGUF", "hf:Acme/New-GGUF"),
        ("hf.co/Acme/New-GGUF:Q4_K_M", "hf:Acme/New-GGUF:Q4_K_M"),
        ("huggingface.co/Acme/New-GGUF:latest", "hf:Acme/New-GGUF"),
        ("hf:acme/new", "hf:acme/new"),
    ],
)
async def test_names_as_clients_write_them(client: TestClient, machine: Machine, given: str, pulled: str) -> None:
    assert (await post(client, "/api/pull", model=given, stream=False))[0] == 200
    assert machine.pulled == [pulled]


@pytest.mark.parametrize("name", ["tiny", "tiny:latest", "TINY:f32", "embedder"])
async def test_an_installed_model_is_a_success_at_once_for_everybody(
    client: TestClient, machine: Machine, name: str
) -> None:
    """mem0 pulls its model each time it starts."""
    assert await lines_of(client, model=name) == [{"status": "pulling manifest"}, {"status": "success"}]
    response = await client.post("/api/pull", json={"model": name, "stream": False}, headers=AWAY)
    assert (response.status, await response.json()) == (200, {"status": "success"})
    assert machine.pulled == []


async def test_a_damaged_model_is_pulled_again(client: TestClient, machine: Machine) -> None:
    machine.store.file("tiny", "F32").write_bytes(b"GGUF, no more")
    assert (await post(client, "/api/pull", model="tiny", stream=False))[0] == 200
    assert machine.pulled == ["tiny"]


async def test_a_pulled_model_can_be_used_at_once(client: TestClient, machine: Machine, tmp_path: Path) -> None:
    assert "new:latest" not in await names(client)
    install(tmp_path, "new", "F32", tmp_path / "tiny.gguf")
    await lines_of(client, model="new")
    assert (await post(client, "/api/embed", model="new", input="a"))[0] == 200


async def test_errors_of_a_pull(client: TestClient, machine: Machine) -> None:
    machine.lines = [PullLine(error="no model is named 'nobody'", unknown=True)]
    for more in ({}, {"stream": False}):
        status, answer = await post(client, "/api/pull", model="nobody", **more)
        assert (status, list(answer)) == (404, ["error"])
        assert answer["error"].startswith("pull model manifest: file does not exist: no model is named 'nobody'")
    machine.lines = [PullLine(message="downloading"), PullLine(error="the disk is full")]
    assert (await lines_of(client, model="big"))[-1] == {"error": "the disk is full"}
    assert await post(client, "/api/pull", model="big", stream=False) == (500, {"error": "the disk is full"})
    for body in ({}, {"model": "", "name": None}):
        assert (await post(client, "/api/pull", **body))[0] == 400


@pytest.mark.parametrize("name", ["/etc/passwd", "~/mine.gguf", "./mine.gguf", "mine.gguf", "..\\mine", "a/b"])
async def test_no_file_of_the_machine_can_be_pulled(client: TestClient, machine: Machine, name: str) -> None:
    status, answer = await post(client, "/api/pull", model=name)
    assert (status, machine.pulled) == (400, [])
    assert "invalid model name" in answer["error"]


# --- delete and copy --------------------------------------------------------------------------------------------------


async def test_delete_unloads_a_model_and_removes_its_files(client: TestClient, machine: Machine) -> None:
    assert (await post(client, "/api/embed", model="tiny", input="a"))[0] == 200
    assert await delete(client, model="tiny:latest") == (200, "")
    assert machine.engine.closed
    assert machine.store.installed() == []
    assert "tiny:latest" not in await names(client)
    status, answer = await delete(client, name="tiny")
    assert (status, json.loads(answer)["error"][:22]) == (404, "model 'tiny' not found")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("embedder", "was not installed by edgeembed"),
        ("tiny:query", "no model of its own"),
        ("tiny:cosine", "no model of its own"),
        ("", "model is required"),
    ],
)
async def test_what_is_not_deleted(client: TestClient, machine: Machine, name: str, words: str) -> None:
    status, answer = await delete(client, model=name)
    assert status == (409 if name == "embedder" else 400) and words in answer
    assert len(machine.store.installed()) == 1


async def test_a_model_of_the_settings_is_not_deleted(machine: Machine, client: TestClient) -> None:
    (tiny,) = machine.store.installed()
    machine.service.registry.default = served(tiny)
    machine.service.registry._fixed = [served(tiny)]
    status, answer = await delete(client, model="tiny")
    assert status == 409 and "named by the settings" in answer
    assert machine.store.installed() == [tiny]


async def test_a_copy_is_an_alias_at_once_and_in_the_settings(client: TestClient, machine: Machine) -> None:
    machine.paths.config_file.write_text('port = 9000  # mine\n\n[aliases]\n# for the old tool\nold = "tiny"')
    machine.manager = ModelManager(machine.service, LiveSettings(resolved(Settings(aliases={"old": "tiny"}), machine.paths)))
    assert (await post_empty(client, "/api/copy", source="tiny", destination="my/copy:v1")) == 200
    assert (await post_empty(client, "/api/copy", source="tiny:query", destination="Asking:latest")) == 200
    for name in ("my/copy:v1", "MY/copy:V1", "asking", "asking:latest"):
        status, answer = await post(client, "/api/embed", model=name, input="a")
        assert (status, answer["model"]) == (200, name)
    assert {"my/copy:v1", "asking:latest"} <= set(await names(client))
    assert machine.aliases == {"old": "tiny", "my/copy:v1": "tiny:F32", "Asking": "tiny:F32:query"}
    assert "# for the old tool" in machine.paths.config_file.read_text(), "the rest of the file stays"
    status, answer = await delete(client, model="tiny")
    assert status == 409 and "asking, my/copy:v1" in answer, "names that would mean nothing without it"
    for name in ("my/copy:v1", "ASKING:latest"):
        assert await delete(client, model=name) == (200, "")
        assert (await post(client, "/api/embed", model=name, input="a"))[0] == 404
    assert machine.aliases == {"old": "tiny"}
    assert len(machine.store.installed()) == 1


async def post_empty(client: TestClient, path: str, **body: Any) -> int:
    response = await client.post(path, json=body)
    assert response.status != 200 or await response.read() == b""
    return response.status


async def test_an_alias_may_be_changed(client: TestClient, machine: Machine) -> None:
    for source in ("embedder", "tiny", "mine"):
        assert await post_empty(client, "/api/copy", source=source, destination="mine") == 200
    assert machine.aliases == {"mine": "tiny:F32"}, "a copy of an alias means the model"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"source": "nobody", "destination": "a"}, 404, "model 'nobody' not found"),
        ({"destination": "a"}, 400, "model is required"),
        ({"source": "tiny"}, 400, 'destination "" is invalid'),
        ({"source": "tiny", "destination": "two words"}, 400, "destination 'two words' is invalid"),
        ({"source": "tiny", "destination": "a\nb"}, 400, "is invalid"),
        ({"source": "tiny", "destination": "../a"}, 400, "is invalid"),
        ({"source": "tiny", "destination": "a" * 300}, 400, "is invalid"),
        ({"source": "tiny", "destination": "embedder"}, 400, "choose another one"),
    ],
)
async def test_errors_of_copy(client: TestClient, machine: Machine, body: dict[str, Any], status: int, words: str) -> None:
    got, answer = await post(client, "/api/copy", **body)
    assert got == status and words in answer["error"]
    assert machine.aliases == {}


async def test_aliases_of_a_flag_are_not_changed_in_the_file(
    tmp_path: Path, aiohttp_client: Callable[..., Awaitable[TestClient]]
) -> None:
    machine = Machine(tmp_path, aliases={"old": "tiny"})
    client = await aiohttp_client(machine.app())
    status, answer = await post(client, "/api/copy", source="tiny", destination="new")
    assert status == 400 and "flag or a variable" in answer["error"]
    assert (await post(client, "/api/embed", model="new", input="a"))[0] == 404
    assert (await delete(client, model="old"))[0] == 400
    assert (await post(client, "/api/embed", model="old", input="a"))[0] == 200


HOSTILE = [
    *(b"", b"[]", b"{", b"null", b'"tiny"', b"[" * 50_000, b'{"model":' * 15_000),
    *(json.dumps({name: value}).encode() for name in ("model", "name", "source") for value in (5, ["a"], {"a": 1}, True)),
    *(json.dumps({"model": name, "source": name, "destination": name}).encode() for name in ("\0", "a\nb", "a" * 90_000)),
    json.dumps({"model": "tiny", "stream": "yes", "source": "tiny", "destination": ["mine"], "name": 1}).encode(),
]


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/copy")])
async def test_malformed_bodies_are_client_errors_and_do_nothing(
    client: TestClient, machine: Machine, method: str, path: str
) -> None:
    for body in HOSTILE:
        response = await client.request(method, path, data=body, headers={"Content-Type": "application/json"})
        text = await response.text()
        assert 400 <= response.status < 500, f"{body[:100]!r}: {response.status} {text}"
        assert list(json.loads(text)) == ["error"] and len(text) < 1000
    assert await unchanged(machine)


# --- who may do that --------------------------------------------------------------------------------------------------

CHANGES = [
    ("POST", "/api/pull", {"model": "new"}),
    ("DELETE", "/api/delete", {"model": "tiny"}),
    ("POST", "/api/copy", {"source": "tiny", "destination": "mine"}),
]


async def unchanged(machine: Machine) -> bool:
    return machine.pulled == [] and machine.aliases == {} and len(machine.store.installed()) == 1


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_web_pages_may_change_nothing(
    machine: Machine, aiohttp_client: Callable[..., Awaitable[TestClient]], method: str, path: str, body: dict[str, Any]
) -> None:
    """Not even those of allowed_origins, nor the dashboard."""
    client = await aiohttp_client(machine.app(origins=("https://app.example",)))
    here = f"http://127.0.0.1:{client.port}"
    for origin in (PAGE, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": here}):
        response = await client.request(method, path, json=body, headers=origin)
        assert response.status == 403
    assert await unchanged(machine)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_without_keys_only_programs_on_this_machine_may_change_anything(
    client: TestClient, machine: Machine, method: str, path: str, body: dict[str, Any]
) -> None:
    for headers in (AWAY, {"Forwarded": "for=203.0.113.9"}):
        response = await client.request(method, path, json=body, headers=headers)
        assert response.status == 403
        assert "only programs on this machine" in (await response.json())["error"]
    assert await unchanged(machine)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_with_keys_a_change_needs_one(
    machine: Machine, aiohttp_client: Callable[..., Awaitable[TestClient]], method: str, path: str, body: dict[str, Any]
) -> None:
    client = await aiohttp_client(machine.app(keys=Keys.read("sesame", None)))
    assert (await client.request(method, path, json=body)).status == 401
    assert (await client.request(method, path, json=body, headers={"Authorization": "Bearer wrong"})).status == 401
    assert await unchanged(machine)
    response = await client.request(method, path, json=body, headers={"Authorization": "Bearer sesame", **AWAY})
    assert response.status == 200
