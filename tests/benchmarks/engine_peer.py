"""Our engine without HTTP and cache, as a peer of `compare`: one worker, with the options that the daemon gives it.

    PYTHONPATH=ROOT python -m tests.benchmarks.engine_peer MODEL.gguf --threads N

It takes jobs as raw_peer does, but its clients are as many as the job says: each sends the texts of a request, and waits.
Requests of several texts are bulk loads, as the daemon takes them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from edgeembed.engine.interface import BULK, INTERACTIVE, Row
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS
from tests.benchmarks.driver import Group, Job, Outcome, source_of
from tests.benchmarks.engine import open_engine
from tests.benchmarks.raw_peer import answer_jobs


async def embed(engine: WorkerEngine, texts: list[str]) -> list[Row]:
    """Embed the texts of one request."""
    return await asyncio.gather(*engine.submit(texts, BULK if len(texts) > 1 else INTERACTIVE))


async def do(job: Job, engine: WorkerEngine) -> dict[str, Outcome]:
    """Do a job; return the outcome of each group."""
    await _drive(job, job.seed + 1, job.warm_seconds, engine)
    return await _drive(job, job.seed, job.seconds, engine)


async def _drive(job: Job, seed: int, seconds: float, engine: WorkerEngine) -> dict[str, Outcome]:
    outcomes = {group.name: Outcome() for group in job.groups}
    pauses = random.Random(seed)
    began = time.perf_counter()
    until = began + seconds

    async def client(group: Group, next_texts: Callable[[], list[str]]) -> int:
        outcome, tokens = outcomes[group.name], 0
        while not outcome.latencies or time.perf_counter() < until:
            texts = next_texts()
            sent = time.perf_counter()
            rows = await embed(engine, texts)
            now = time.perf_counter()
            outcome.latencies.append(now - sent)
            outcome.texts += len(texts)
            outcome.seconds = now - began
            tokens += sum(row.tokens for row in rows)
            if group.pause[1]:
                await asyncio.sleep(pauses.uniform(*group.pause))
        return tokens

    async def clients(index: int, group: Group) -> None:
        next_texts = source_of(group, seed + 1000 * index)
        tokens = await asyncio.gather(*(client(group, next_texts) for _ in range(group.clients)))
        outcome = outcomes[group.name]
        outcome.tokens_per_text, outcome.distinct = sum(tokens) / outcome.texts, outcome.texts

    await asyncio.gather(*(clients(index, group) for index, group in enumerate(job.groups)))
    return outcomes


def main() -> None:
    """Load the model, and do jobs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    options = WorkerOptions(
        path=str(given.model),
        threads=given.threads,
        context_tokens=512,
        batch_tokens=DEFAULT_BATCH_TOKENS,
        mode="cpu",
        extra_buffers=True,
        autotune=True,
    )
    answers, sys.stdout = sys.stdout, sys.stderr
    loop = asyncio.new_event_loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        stack = AsyncExitStack()
        engine: WorkerEngine = runner.run(stack.enter_async_context(open_engine(options)))

        def rows(texts: list[str]) -> Any:
            return [row.vector for row in runner.run(embed(engine, texts))]

        answer_jobs(rows, lambda job: runner.run(do(job, engine)), answers)
        runner.run(stack.aclose())


if __name__ == "__main__":
    main()
