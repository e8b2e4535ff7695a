"""Real workers for the tests of falls and recovery: their options, an engine that runs them, and code that breaks them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgeembed.engine.canary import cosine
from edgeembed.engine.execution_modes import CPU_BEST, GPU_FULL, ExecutionMode
from edgeembed.engine.interface import BULK, INTERACTIVE, Float32Row
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.process import WORKER_COMMAND
from edgeembed.engine.supervisor.worker_engine import WorkerEngine, WorkerTimeouts
from edgeembed.engine.worker_options import WorkerOptions
from tests.waiting import until_async

TEXTS = ["a query", *(f"text {number} " * (number % 5 + 1) for number in range(20))]

# A worker whose memory is limited in gpu-full to what it has once llama.cpp is loaded, and a little more.
LIMITED = """
import resource, sys
from pathlib import Path
from edgeembed.engine.llama import model
from edgeembed.engine.worker import main as worker
def main(argv):
    if argv[1] == "gpu-full" and not Path({cured!r}).exists():
        import psutil
        limit = psutil.Process().memory_info().vms + {room}
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return worker.main(argv)
sys.exit(main(sys.argv))
"""

# A worker that is killed or frozen when it is about to load the model in a GPU mode.
STRUCK = """
import os, signal, sys
from pathlib import Path
from edgeembed.engine.llama import model
from edgeembed.engine.worker import main as worker
load = model.LlamaModel.__init__
def struck(self, options):
    if options.mode.startswith("gpu") and not Path({cured!r}).exists():
        os.kill(os.getpid(), signal.{signal})
    load(self, options)
model.LlamaModel.__init__ = struck
sys.exit(worker.main(sys.argv))
"""

# A worker whose rows, canary rows included, are wrong while a file exists, as on a card that breaks while it computes.
BROKEN = """
import sys
from pathlib import Path
from edgeembed.engine.worker import main as worker
from edgeembed.engine.llama.context import Context
from edgeembed.engine.llama.library import ComputeError
compute = Context.compute
def wrong(self, *arguments, **more):
    rows = compute(self, *arguments, **more)
    if sys.argv[1].startswith("gpu") and Path({broken!r}).exists():
        {deed}
    return rows
Context.compute = wrong
sys.exit(worker.main(sys.argv))
"""


def options(mode: ExecutionMode, *, file: Path, **changes: Any) -> WorkerOptions:
    base: dict[str, Any] = {
        "path": str(file), "threads": 1, "context_tokens": 512, "batch_tokens": 64, "mode": mode.name,
        "extra_buffers": False, "bulk_lanes": 1,
    }  # fmt: skip
    return WorkerOptions(**(base | changes))


@asynccontextmanager
async def engine(
    options_of: Callable[[ExecutionMode], WorkerOptions], command: tuple[str, ...] = WORKER_COMMAND, **more: Any
) -> AsyncIterator[WorkerEngine]:
    modes = more.pop("modes", (GPU_FULL, CPU_BEST))
    policy = FallbackPolicy(modes, cool_down=more.pop("cool_down", 2.0))
    timeouts = WorkerTimeouts(load=more.pop("load_timeout", 300.0), hang=more.pop("hang_seconds", 60.0), check=0.1)
    made = WorkerEngine(options_of, policy, command=command, timeouts=timeouts, **more)
    try:
        yield made
    finally:
        await made.close()


async def rows_are_right(made: WorkerEngine, expected: dict[str, Float32Row], least: float = 0.9999) -> None:
    """Assert the lowest cosine of the rows of TEXTS to the expected ones."""
    futures = [*made.submit(TEXTS[:1], INTERACTIVE), *made.submit(TEXTS[1:], BULK)]
    for text, row in zip(TEXTS, await asyncio.gather(*futures), strict=True):
        assert cosine(row.vector, expected[text]) > least


async def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    await until_async(condition, seconds)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", code)
