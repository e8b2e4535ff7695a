"""Helpers for tests of jobs: runs one in this process, with a fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeembed.bulk.computed import Computed
from edgeembed.bulk.embedders import EmbedOptions, LocalEmbedder
from edgeembed.bulk.job import Job, JobListener, JobResult, claimed, run
from edgeembed.bulk.shards import JobRules
from edgeembed.bulk.stores.output import StoreOutput, output_of
from edgeembed.engine.interface import DENSE, Output, Priority, Row, Text
from edgeembed.errors import EdgeEmbedError
from tests.fakes import FakeEngine, fake_row, fake_service, whole_text

TEXTS = [f"{'word ' * (row % 4)}number {row} of them" for row in range(20)]


class Silent:
    """Shows nothing."""

    def begin(self, texts: int, done_bytes: int, all_bytes: int | None) -> None: ...
    def note(self, line: str) -> None: ...
    def add(self, texts: int, read_bytes: float) -> None: ...
    def assembling(self) -> None: ...


class TogetherEngine(FakeEngine):
    """An engine whose rows depend on all texts of their request, as the last digits of a real one's do."""

    def __init__(self) -> None:
        super().__init__()
        self._together: dict[str, str] = {}
        self.row_of = lambda text: fake_row(f"{text} of {self._together[text]}", self.dimensions)

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        whole = [whole_text(text) for text in texts]
        self._together |= dict.fromkeys(whole, " ".join(whole))
        return super().submit(texts, priority, isolated=isolated, outputs=outputs)


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


def make_job(folder: Path, name: str, outputs: tuple[Output, ...], **more: Any) -> Job:
    """Return a job that embeds TEXTS. name: of a file in the folder, or of a store, with {} for the folder."""
    texts = folder / "texts.txt"
    if not texts.exists():
        texts.write_text("\n".join(TEXTS))
    target = output_of(name.format(folder) if ":" in name else f"{folder}/{name}", append=more.get("append", False))
    options = {key: more.pop(key) for key in ("resume", "overwrite") if key in more}
    store = target.title if isinstance(target, StoreOutput) else None
    rules = JobRules(format=target.format, store=store, outputs=outputs, shard_rows=6, **more)
    return Job(inputs=[str(texts)], output=target, rules=rules, **options)


async def finished(job: Job, engine: FakeEngine | None = None, watch: JobListener | None = None) -> JobResult:
    async with embedder_of(job.rules.outputs, engine or FakeEngine()) as embedder:
        with claimed(job):
            return await run(job, embedder, watch or Silent())


async def unfinished(job: Job, last: str, engine: FakeEngine | None = None) -> Job:
    """Run a job that stops at a text, and return it."""
    async with embedder_of(job.rules.outputs, engine or FakeEngine()) as embedder:
        embed_texts = embedder.embed

        async def embed_until(texts: Sequence[str]) -> Computed:
            if last in texts:
                raise EdgeEmbedError("stop")
            return await embed_texts(texts)

        embedder.embed = embed_until  # type: ignore[method-assign]
        with claimed(job), pytest.raises(EdgeEmbedError, match="stop"):
            await run(job, embedder, Silent())
    return job
