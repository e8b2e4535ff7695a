"""Helpers for tests of jobs: runs one in this process, with a fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from edgeembed.bulk.computed import Computed
from edgeembed.bulk.embedders import EmbedOptions, LocalEmbedder
from edgeembed.bulk.job import Job, JobResult, claimed, run
from edgeembed.engine.interface import Output
from edgeembed.errors import EdgeEmbedError
from tests.fakes import FakeEngine, fake_service


class Silent:
    """Shows nothing."""

    def begin(self, texts: int, done_bytes: int, all_bytes: int | None) -> None: ...
    def note(self, line: str) -> None: ...
    def add(self, texts: int, read_bytes: float) -> None: ...
    def assembling(self) -> None: ...


@asynccontextmanager
async def embedder_of(
    outputs: Sequence[Output], engine: FakeEngine, own: tuple[Output, ...] = ("dense", "multi", "sparse")
) -> AsyncIterator[LocalEmbedder]:
    """own: of the model."""
    service = fake_service(engine, outputs=own)
    model = service.registry.default
    assert model is not None
    embedder = LocalEmbedder(service, model, EmbedOptions(outputs=tuple(outputs)))
    try:
        await embedder.start()
        yield embedder
    finally:
        await service.pool.close()


async def finished(job: Job, engine: FakeEngine | None = None) -> JobResult:
    async with embedder_of(job.rules.outputs, engine or FakeEngine()) as embedder:
        with claimed(job):
            return await run(job, embedder, Silent())


async def unfinished(job: Job, last: str) -> Job:
    """Run a job that stops at a text, and return it."""
    async with embedder_of(job.rules.outputs, FakeEngine()) as embedder:
        embed_texts = embedder.embed

        async def embed_until(texts: Sequence[str]) -> Computed:
            if last in texts:
                raise EdgeEmbedError("stop")
            return await embed_texts(texts)

        embedder.embed = embed_until  # type: ignore[method-assign]
        with claimed(job), pytest.raises(EdgeEmbedError, match="stop"):
            await run(job, embedder, Silent())
    return job
