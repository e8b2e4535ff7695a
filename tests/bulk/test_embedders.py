"""Embedders of bulk jobs: all rows of a job come from one model file."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeembed.bulk.embedders import DaemonEmbedder, EmbedOptions, LocalEmbedder
from edgeembed.client import Connection, Reply
from edgeembed.errors import ConfigError, EngineUnavailableError
from tests.fakes import FakeEngine, fake_row, fake_service


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
        answer = {"model": "mine", "data": data}
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
