"""Embedders of bulk jobs: all rows of a job come from one model file."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from edgeembed.bulk.embedders import DaemonEmbedder, EmbedOptions, LocalEmbedder
from edgeembed.client import Connection, Reply, connected
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Output
from edgeembed.engine.outputs import pack
from edgeembed.errors import ConfigError, EngineUnavailableError
from tests.fakes import DIMENSIONS, FakeEngine, fake_row, fake_service
from tests.server.dialect_requests import Server


class FakeConnection(Connection):
    """A daemon that says which file it computes from; empty for one of an earlier version, which does not."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    async def ask(self, path: str, seconds: float = 5.0, body: dict[str, Any] | None = None) -> Reply:
        if body is None:
            loaded = [{"name": "mine", "type": "F16", "digest": "of the status", "device": "a processor"}]
            return Reply(url=f"http://here{path}", status=200, server="edgeembed/0", body={"models": loaded})
        data = [
            {"index": index, "embedding": base64.b64encode(fake_row(text).tobytes()).decode()}
            for index, text in enumerate(body["input"])
        ]
        answer = {"model": "mine", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        return Reply(url=f"http://here{path}", status=200, server="edgeembed/0", body=answer, digest=self.digest)


async def test_a_job_ends_when_the_daemons_model_file_is_replaced() -> None:
    connection = FakeConnection("one")
    embedder = DaemonEmbedder(connection, EmbedOptions())
    await embedder.start()
    assert embedder.info.digest == "one"
    assert np.array_equal((await embedder.embed(["a text"])).dense[0], fake_row("a text"))
    connection.digest = "two"
    with pytest.raises(ConfigError, match="the file of mine was replaced while the job ran"):
        await embedder.embed(["a text"])


async def test_a_daemon_of_an_earlier_version_is_believed() -> None:
    embedder = DaemonEmbedder(FakeConnection(""), EmbedOptions())
    await embedder.start()
    assert (embedder.info.digest, embedder.info.engine) == ("of the status", "a processor")
    await embedder.embed(["a text"])


async def test_a_job_in_this_process_ends_when_its_model_file_is_replaced() -> None:
    service = fake_service(FakeEngine())
    model = service.registry.default
    assert model is not None
    embedder = LocalEmbedder(service, model, EmbedOptions())
    await embedder.start()
    await embedder.embed(["a text"])
    service.registry._renew = lambda _model: replace(model, digest="another")
    service.registry.mark_stale()
    with pytest.raises(ConfigError, match="was replaced while the job ran"):
        await embedder.embed(["a text"])
    await service.pool.close()


async def test_a_model_that_cannot_be_loaded_is_not_tried_again() -> None:
    engine = FakeEngine()
    starts: list[str] = []

    async def start() -> None:
        starts.append("tried")
        raise EngineUnavailableError("it is damaged")

    engine.start = start  # type: ignore[method-assign]
    service = fake_service(engine)
    model = service.registry.default
    assert model is not None
    with pytest.raises(EngineUnavailableError, match="it is damaged"):
        await LocalEmbedder(service, model, EmbedOptions()).start()
    assert starts == ["tried"]
    await service.pool.close()


ALL: tuple[Output, ...] = ("dense", "multi", "sparse", "tokens")


@pytest.mark.parametrize("outputs", [ALL, ("sparse",), ("tokens",), ("dense", "multi")])
async def test_the_daemon_returns_what_this_process_computes(
    aiohttp_server: Callable[..., Awaitable[TestServer]], outputs: tuple[Output, ...]
) -> None:
    """Token vectors are on a route of their own, and not of length 1."""
    own: tuple[Output, ...] = ("dense", "multi", "sparse")
    options = EmbedOptions(outputs=outputs)
    server = await aiohttp_server(Server(outputs=own).app)
    settings = Settings(host="127.0.0.1", port=server.port)
    service = fake_service(FakeEngine(), outputs=own)
    assert service.registry.default is not None
    local = LocalEmbedder(service, service.registry.default, options)
    async with connected(settings) as connection:
        daemon = DaemonEmbedder(connection, options)
        for embedder in (daemon, local):
            await embedder.start()
        assert daemon.info.outputs == local.info.outputs == outputs
        assert daemon.info.widths == local.info.widths
        texts = ["one text", "another text of six words", "one"]
        found, expected = await daemon.embed(texts), await local.embed(texts)
    await service.pool.close()
    assert np.array_equal(found.dense, expected.dense)
    assert set(found.others) == set(expected.others) == set(outputs) - {"dense"}
    for output, matrices in expected.others.items():
        for one, other in zip(found.others[output], matrices, strict=True):
            assert np.array_equal(one, other), output


async def test_a_text_without_rows_does_not_end_a_job() -> None:
    """Late interaction can leave out all tokens of a text, such as punctuation."""
    engine = FakeEngine()
    compute = engine.row_of_outputs
    engine.row_of_outputs = lambda text, outputs: (
        pack({"multi": np.zeros((0, 0), np.float32)}) if text == "!" else compute(text, outputs)
    )
    service = fake_service(engine, outputs=("multi",))
    assert service.registry.default is not None
    embedder = LocalEmbedder(service, service.registry.default, EmbedOptions(outputs=("multi",)))
    await embedder.start()
    assert embedder.info.widths == {"multi": DIMENSIONS}
    found = await embedder.embed(["!"])
    assert (found.dense.shape, found.widths) == ((1, 0), {})
    await service.pool.close()
