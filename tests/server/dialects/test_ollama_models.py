"""Ollama's routes that describe models, over HTTP, on fake engines: an embedder with aliases and a reranker."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from edgeembed import __version__
from edgeembed.models.registry import ModelRegistry
from edgeembed.server.app_keys import SERVICE
from tests.fakes import CONTEXT_TOKENS, DIMENSIONS, fake_model
from tests.server.dialect_requests import Server, get, post


async def test_tags_list_every_name_of_embedders(client: TestClient) -> None:
    status, answer = await get(client, "/api/tags")
    assert status == 200
    names = [model["name"] for model in answer["models"]]
    assert names == [
        "embedder:latest",
        "embedder:query",
        "embedder:document",
        "embedder:F32",
        "nomic-embed-text:latest",
    ]
    assert names == [model["model"] for model in answer["models"]]
    first = answer["models"][0]
    assert first["details"]["embedding_length"] == DIMENSIONS
    assert first["details"]["quantization_level"] == "F32"
    assert first["capabilities"] == ["embedding"]
    assert datetime.datetime.fromisoformat(first["modified_at"]).year == 2023
    for name in names:
        assert (await post(client, "/api/embed", model=name, input="a"))[0] == 200


async def test_tags_list_the_names_of_ollamas_library(aiohttp_client: Callable[..., Awaitable[TestClient]]) -> None:
    """Clients such as mem0 and Open WebUI look for the name that they are about to send, and pull it otherwise."""
    server = Server()
    nomic = replace(fake_model("nomic-embed-text-v1.5"), path=Path("nomic.gguf"))
    in_place = replace(fake_model("my-file"), path=Path("my-file.gguf"), other_names=("all-minilm-l6-v2", "all-minilm"))
    own = replace(fake_model("bge-m3"), path=Path("bge-m3.gguf"))
    server.app[SERVICE].registry = ModelRegistry(nomic, [in_place, own], aliases={"mine": "bge-m3"})
    _, answer = await get(await aiohttp_client(server.app), "/api/tags")
    assert [model["name"] for model in answer["models"]] == [
        *("nomic-embed-text-v1.5:latest", "nomic-embed-text:latest", "nomic-embed-text-v1.5:F32"),
        *("my-file:latest", "all-minilm:latest", "my-file:F32"),
        *("bge-m3:latest", "bge-m3:F32", "mine:latest"),
    ]


async def test_show_describes_a_model_under_any_name(client: TestClient) -> None:
    for body in ({"model": "nomic-embed-text:latest"}, {"name": "embedder"}):
        status, answer = await post(client, "/api/show", **body)
        assert status == 200
        assert answer["modelfile"] == "FROM embedder:F32\n"
        assert answer["capabilities"] == ["embedding"]
        assert isinstance(answer["model_info"], dict)
    assert (await post(client, "/api/show", model="ranker"))[1]["capabilities"] == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "model is required"),
        ({"model": None, "name": None}, 400, "model is required"),
        ({"model": "other"}, 404, "model 'other' not found"),
        ({"model": "other:latest"}, 404, "model 'other:latest' not found"),
    ],
)
async def test_errors_of_show(client: TestClient, body: dict[str, Any], status: int, words: str) -> None:
    got, answer = await post(client, "/api/show", **body)
    assert (got, list(answer)) == (status, ["error"])
    assert answer["error"].startswith(words)


async def test_show_tells_the_longest_text_of_a_loaded_model(client: TestClient) -> None:
    await post(client, "/api/embed", model="embedder", input="a")
    _, answer = await post(client, "/api/show", model="embedder")
    assert answer["parameters"].split() == ["num_ctx", str(CONTEXT_TOKENS)]


async def test_loaded_models_have_the_names_of_tags(client: TestClient) -> None:
    await post(client, "/api/embed", model="embedder:F32", input="a")
    (_, tags), (_, running) = await get(client, "/api/tags"), await get(client, "/api/ps")
    (model,) = running["models"]
    assert model["name"] == model["model"] == "embedder:latest"
    assert model["name"] in [each["name"] for each in tags["models"]]


async def test_head_shows_that_the_server_runs(client: TestClient) -> None:
    """Ollama's clients send HEAD / to check for a server."""
    for method in ("HEAD", "GET"):
        for path in ("/", "/api/version", "/api/tags"):
            assert (await client.request(method, path)).status == 200


async def test_the_version_is_one_that_ollamas_clients_accept(client: TestClient) -> None:
    _, answer = await get(client, "/api/version")
    assert tuple(map(int, answer["version"].split("."))) >= (0, 6, 4), "what VS Code asks for"
    assert answer["edgeembed"] == __version__
