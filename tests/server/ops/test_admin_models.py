"""The owner's routes about models: what is listed, downloads, loading, the default, removal."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.common.pull_lines import PullLine
from edgeembed.config.settings import Settings
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.offered import offered_types
from edgeembed.models.overview import Room, overview
from edgeembed.models.profiles import Measurement, RunProfile, TuningResult, TuningResults
from tests.server.dialect_requests import get, post
from tests.server.machine import Machine
from tests.waiting import until_async

GB = 10**9


@pytest.fixture
def machine(tmp_path: Path, home: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
async def client(machine: Machine, aiohttp_client: Callable[..., Awaitable[TestClient]]) -> TestClient:
    return await aiohttp_client(machine.app())


async def listed(client: TestClient, name: str) -> dict[str, Any]:
    status, answer = await get(client, "/v1/admin/models")
    assert status == 200
    (found,) = [model for model in answer["models"] if model["name"] == name]
    return dict(found)


async def kind(client: TestClient, spec: str) -> dict[str, Any]:
    model = await listed(client, spec.partition(":")[0])
    (found,) = [each for each in model["types"] if each["spec"] == spec]
    return dict(found)


# --- what is listed ---------------------------------------------------------------------------------------------------


async def test_the_whole_catalogue_is_listed_with_every_type(client: TestClient, machine: Machine) -> None:
    _, answer = await get(client, "/v1/admin/models")
    names = [model["name"] for model in answer["models"]]
    assert set(names) == {*catalogue(), "tiny", "embedder"}
    entry = catalogue()["bge-m3"]
    found = await listed(client, "bge-m3")
    assert found["in_catalogue"] and found["languages"] == ["multilingual"] and found["license"] == "MIT"
    assert (found["dimensions"], found["context"], found["default_type"]) == (1024, 4096, "Q8_0")
    assert 5.6e8 < found["parameters"] < 5.8e8
    types = {each["type"]: each for each in found["types"]}
    assert set(types) == set(offered_types(entry)) and next(iter(types)) == "Q8_0"
    assert types["Q8_0"]["file_bytes"] == 634553760 < types["F16"]["file_bytes"] < types["F16"]["memory_bytes"]
    assert types["Q8_0"]["state"] == "not installed" and not types["Q8_0"]["installed"]
    assert answer["folder"] == str(machine.paths.models) and answer["disk_free_bytes"] > 0
    assert answer["models_bytes"] == machine.store.installed()[0].size_bytes


async def test_installed_models_are_listed_with_their_state(client: TestClient, machine: Machine) -> None:
    tiny = await listed(client, "tiny")
    assert not tiny["in_catalogue"] and tiny["summary"] == "a test"
    (only,) = tiny["types"]
    assert (only["state"], only["installed"], only["removable"], only["default"]) == ("installed", True, True, False)
    assert only["path"] == str(machine.store.installed()[0].path) and only["file_bytes"] > 0 and only["memory_bytes"] > 0
    served = await listed(client, "embedder")
    assert served["types"][0]["default"] and not served["types"][0]["removable"], "a file that is served in place"


async def test_a_damaged_file_is_listed_with_what_is_wrong(client: TestClient, machine: Machine) -> None:
    path = machine.store.installed()[0].path
    path.write_bytes(path.read_bytes()[:-1])
    found = await kind(client, "tiny:F32")
    assert "bytes" in found["damage"] and found["memory_bytes"] is None


async def test_speed_is_what_was_measured_here_and_else_unknown(client: TestClient, machine: Machine) -> None:
    assert (await kind(client, "tiny:F32"))["texts_per_second"] is None
    profile = RunProfile(threads=1)
    measured = Measurement(profile=profile, query_ms=1.0, sentence_ms=4.0, tokens_per_second=9000.0)
    digest = machine.store.installed()[0].digest
    machine.paths.state.mkdir(parents=True, exist_ok=True)
    TuningResults(machine.paths.state).keep(
        digest, TuningResult(profile=profile, made_at=0, thorough=True, measured=[measured])
    )
    found = await kind(client, "tiny:F32")
    assert (found["texts_per_second"], found["tokens_per_second"]) == (250.0, 9000.0)


@pytest.mark.parametrize(
    ("room", "needed", "fits", "words"),
    [
        (Room(4 * GB), 2 * GB, "yes", "of the 4.00 GB for loaded models"),
        (Room(4 * GB), 5 * GB, "no", "memory_budget_mib"),
        (Room(4 * GB, 8 * GB, "CUDA0"), 5 * GB, "yes", "all on CUDA0"),
        (Room(4 * GB, 8 * GB, "CUDA0"), 10 * GB, "partly", "the rest in main memory"),
        (Room(4 * GB, 8 * GB, "CUDA0"), 13 * GB, "no", "more than"),
        (Room(4 * GB), None, None, "not known"),
    ],
)
def test_whether_a_model_fits(room: Room, needed: int | None, fits: str | None, words: str) -> None:
    found, said = room.fit(needed)
    assert found == fits and words in said


def test_only_cards_in_use_with_memory_of_their_own_count() -> None:
    card = {"memory_total": 10 * GB, "kind": "gpu"}
    devices = [{"name": "CUDA0", **card}, {"name": "CUDA1", **card}, {"name": "Vulkan0", **card, "kind": "igpu"}]
    described = {"devices": devices, "used": ["CUDA0", "Vulkan0"], "gpu_memory_utilization": 0.5}
    assert Room.of(GB, described) == Room(GB, 5 * GB, "CUDA0")
    assert Room.of(GB, {}) == Room(GB)


def test_memory_follows_the_settings() -> None:
    def needed(**settings: Any) -> int:
        model = next(each for each in overview((), Settings(**settings)) if each.name == "qwen3-embedding-0.6b")
        return model.types[0].memory_bytes or 0

    assert needed(context_tokens=512) < needed() < needed(context_tokens=32768)


# --- downloads --------------------------------------------------------------------------------------------------------


async def pulls(client: TestClient) -> list[dict[str, Any]]:
    return list((await get(client, "/v1/admin/models"))[1]["pulls"])


async def test_a_pull_goes_on_without_its_client_and_installs(client: TestClient, machine: Machine) -> None:
    machine.lines = [
        PullLine(message="new: downloading"),
        PullLine(what="new.gguf", done=5, total=10),
        PullLine(installed="tiny:Q8_0"),
    ]
    status, started = await post(client, "/v1/admin/models/pull", model="BGE-M3")
    assert (status, started["spec"]) == (202, "bge-m3:Q8_0")
    while (only := (await pulls(client))[0])["state"] in ("waiting", "running"):
        pass
    assert machine.pulled == ["bge-m3:Q8_0"]
    assert (only["state"], only["installed"], only["error"]) == ("done", "tiny:Q8_0", None)


async def test_a_pull_that_fails_says_why_until_it_is_started_again(client: TestClient, machine: Machine) -> None:
    machine.lines = [PullLine(error="there is no such repository", unknown=True)]
    assert (await post(client, "/v1/admin/models/pull", model="hf:acme/nothing"))[0] == 202
    await until_async(lambda: machine.pulled)
    (failed,) = await pulls(client)
    assert (failed["state"], failed["error"]) == ("failed", "there is no such repository")
    machine.lines = [PullLine(installed="tiny:Q8_0")]
    await post(client, "/v1/admin/models/pull", model="hf:acme/nothing")
    await until_async(lambda: len(machine.pulled) == 2)
    (done,) = await pulls(client)
    assert (done["state"], done["error"]) == ("done", None)


@pytest.mark.parametrize("name", ["/etc/passwd", "~/model.gguf", "a\nb", "x" * 400, ""])
async def test_no_file_of_the_machine_is_pulled(client: TestClient, machine: Machine, name: str) -> None:
    assert (await post(client, "/v1/admin/models/pull", model=name))[0] == 400
    assert not machine.pulled and not await pulls(client)


async def test_nothing_is_pulled_offline(tmp_path: Path, aiohttp_client: Any) -> None:
    machine = Machine(tmp_path, offline=True)
    client = await aiohttp_client(machine.app())
    status, refused = await post(client, "/v1/admin/models/pull", model="bge-m3")
    assert status == 409 and "offline" in refused["error"]["message"] and not machine.pulled


@pytest.mark.parametrize("action", ["pause", "cancel"])
async def test_only_what_is_pulled_is_paused(client: TestClient, action: str) -> None:
    assert (await post(client, f"/v1/admin/models/pull/{action}", model="bge-m3"))[0] == 404


# --- loading ----------------------------------------------------------------------------------------------------------


async def test_models_are_loaded_and_unloaded(client: TestClient, machine: Machine) -> None:
    machine.engine.loaded.clear()
    status, found = await post(client, "/v1/admin/models/load", model="tiny:F32")
    assert (status, found["name"], found["types"][0]["state"]) == (200, "tiny", "loading")
    machine.engine.loaded.set()

    async def state() -> str:
        return str((await kind(client, "tiny:F32"))["state"])

    while await state() == "loading":
        pass
    assert await state() == "loaded"
    status, found = await post(client, "/v1/admin/models/unload", model="tiny")
    assert (status, found["types"][0]["state"]) == (200, "installed")


async def test_a_model_that_failed_to_load_says_why_and_is_tried_again(client: TestClient, machine: Machine) -> None:
    machine.engine.state, machine.engine.reason = "failed", "no memory"
    await post(client, "/v1/admin/models/load", model="tiny:F32")
    while (found := await kind(client, "tiny:F32"))["state"] == "loading":
        pass
    assert found["state"] == "failed" and "no memory" in found["reason"]
    machine.engine.state, machine.engine.reason = "ready", None
    await post(client, "/v1/admin/models/load", model="tiny:F32")
    while (found := await kind(client, "tiny:F32"))["state"] == "loading":
        pass
    assert (found["state"], found["reason"]) == ("loaded", None)


@pytest.mark.parametrize("action", ["load", "unload", "default", "delete"])
@pytest.mark.parametrize("name", ["nobody", "bge-m3", "tiny:query", "short"])
async def test_only_installed_models_are_changed(tmp_path: Path, aiohttp_client: Any, action: str, name: str) -> None:
    client = await aiohttp_client(Machine(tmp_path, aliases={"short": "tiny"}).app())
    status, refused = await post(client, f"/v1/admin/models/{action}", model=name)
    assert status == 404 and "is installed" in refused["error"]["message"]


# --- the default ------------------------------------------------------------------------------------------------------


async def test_another_default_is_in_effect_at_once_and_written(client: TestClient, machine: Machine) -> None:
    machine.paths.config_file.write_text("port = 9000  # mine\n")
    assert (await post(client, "/v1/embeddings", input="text"))[1]["model"] == "embedder"
    status, found = await post(client, "/v1/admin/models/default", model="tiny:F32")
    assert (status, found["note"], found["types"][0]["default"]) == (200, None, True)
    assert (await post(client, "/v1/embeddings", input="text"))[1]["model"] == "tiny"
    assert tomllib.loads(machine.paths.config_file.read_text()) == {"port": 9000, "model": "tiny:F32"}
    assert "# mine" in machine.paths.config_file.read_text()
    assert not (await listed(client, "embedder"))["types"][0]["default"], "and the one before is still there"
    assert (await get(client, "/v1/admin/models"))[1]["default"] == "tiny:F32"
    await machine.service.registry.refresh()
    assert (await post(client, "/v1/embeddings", input="text"))[1]["model"] == "tiny", "after a scan of the disk, too"


async def test_an_answer_says_that_a_flag_wins(tmp_path: Path, aiohttp_client: Any) -> None:
    client = await aiohttp_client(Machine(tmp_path, origins={"model": "flag"}).app())
    assert "--model" in (await post(client, "/v1/admin/models/default", model="tiny:F32"))[1]["note"]


async def test_a_default_that_cannot_be_written_down_is_not_changed(client: TestClient, machine: Machine) -> None:
    machine.paths.config_file.write_text("port = ")
    status, refused = await post(client, "/v1/admin/models/default", model="tiny:F32")
    assert status == 409 and "config.toml" in refused["error"]["message"]
    assert (await post(client, "/v1/embeddings", input="text"))[1]["model"] == "embedder"


async def test_the_default_of_another_server_stays(client: TestClient, machine: Machine) -> None:
    object.__setattr__(machine.service.registry.default, "upstream", "http://gpu-box:30000/v1")
    status, refused = await post(client, "/v1/admin/models/default", model="tiny:F32")
    assert status == 409 and "upstream" in refused["error"]["message"] and not machine.paths.config_file.exists()


# --- removal ----------------------------------------------------------------------------------------------------------


async def test_a_model_is_deleted_and_no_longer_listed(client: TestClient, machine: Machine) -> None:
    await post(client, "/v1/admin/models/load", model="tiny:F32")
    status, found = await post(client, "/v1/admin/models/delete", model="tiny:F32")
    assert (status, found["name"], found["types"]) == (200, "tiny", [])
    assert not machine.store.installed() and machine.engine.closed
    assert "tiny" not in [model["name"] for model in (await get(client, "/v1/admin/models"))[1]["models"]]


@pytest.mark.parametrize("action", ["unload", "delete"])
async def test_a_model_that_is_being_loaded_is_unloaded_as_soon_as_it_is(
    client: TestClient, machine: Machine, action: str
) -> None:
    machine.engine.loaded.clear()
    await post(client, "/v1/admin/models/load", model="tiny:F32")
    asked = asyncio.create_task(post(client, f"/v1/admin/models/{action}", model="tiny:F32"))
    await machine.engine.until(lambda: machine.pool.slots and not asked.done())
    machine.engine.loaded.set()
    assert (await asked)[0] == 200
    assert machine.engine.closed and [slot.model.name for slot in machine.pool.slots] == ["embedder"]
    assert bool(machine.store.installed()) == (action == "unload")


async def test_the_default_and_models_with_other_names_are_not_deleted(tmp_path: Path, aiohttp_client: Any) -> None:
    machine = Machine(tmp_path, aliases={"short": "tiny"})
    client = await aiohttp_client(machine.app())
    status, refused = await post(client, "/v1/admin/models/delete", model="tiny:F32")
    assert status == 409 and "short" in refused["error"]["message"]
    await post(client, "/v1/admin/models/default", model="tiny:F32")
    status, refused = await post(client, "/v1/admin/models/delete", model="tiny:F32")
    assert status == 409 and "make another one the default first" in refused["error"]["message"]
    assert len(machine.store.installed()) == 1
