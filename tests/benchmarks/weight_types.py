"""The speed of each type of weights next to Q8_0's: one model, converted to each type, in our engine.

    python -m tests.benchmarks.weight_types [--types F16,Q4_K_M] [--rounds 3] [--seconds 2] [--kernels llama.cpp]

The model is a random BERT of 6 layers, 768 wide (`bert768` of weights.py). The types take turns, and the best round of each
counts. Processor time per 1,000 tokens says most where others use the machine; the ratios are to Q8_0 in the same run, and
more than 1 is better. `--kernels llama.cpp` measures the same without our kernels.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from edgeembed.engine.interface import BULK, INTERACTIVE
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.worker_options import WorkerOptions
from tests.benchmarks.engine import Meter, Texts, clients, open_engine
from tests.benchmarks.weights import make_weights

TYPES = ("Q8_0", "F16", "BF16", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS")
BASE = "Q8_0"
WORDS = 100
"""Of a text of the bulk load."""
TEXTS_AT_ONCE = 20
TOKENS, PROCESSOR, LONE = "tokens/s", "cpu ms/1k tokens", "p50 ms"

Figures = dict[str, float]


async def measure(file: Path, seconds: float, threads: int, *, own_kernels: bool) -> Figures:
    """Return the figures of a bulk load, and the median wait of a lone query of 10 words."""
    options = WorkerOptions(
        path=str(file), threads=threads, context_tokens=512, batch_tokens=128, mode="cpu", extra_buffers=True,
        own_kernels=own_kernels,
    )  # fmt: skip
    texts = Texts(0)
    async with open_engine(options) as engine:
        await asyncio.gather(
            *engine.submit([texts(WORDS) for _ in range(4 * TEXTS_AT_ONCE)], BULK)
        )  # first touches are slower
        bulk = Meter(engine)
        await clients(engine, bulk, 3, time.perf_counter() + seconds, lambda: texts(WORDS), BULK, TEXTS_AT_ONCE)
        found = bulk.result()
        lone = Meter(engine)
        await clients(engine, lone, 1, time.perf_counter() + seconds / 2, lambda: texts(10), INTERACTIVE)
        return {TOKENS: found[TOKENS], PROCESSOR: found[PROCESSOR], LONE: lone.result()[LONE]}


def best(rounds: list[Figures]) -> Figures:
    """Return the best of each figure."""
    return {name: (max if name == TOKENS else min)(found[name] for found in rounds) for name in rounds[0]}


def table(found: dict[str, Figures], files: dict[str, Path]) -> str:
    """Format the figures, each with its ratio to those of Q8_0."""
    lines = [f"{'type':<8}{'MiB':>7}" + "".join(f"{name:>26}" for name in (TOKENS, PROCESSOR, LONE))]
    for kind, figures in found.items():
        cells = []
        for name, value in figures.items():
            ratio = value / found[BASE][name] if name == TOKENS else found[BASE][name] / value
            cells.append(f"{value:,.2f} ({ratio:.2f})".rjust(26))
        lines.append(f"{kind:<8}{files[kind].stat().st_size / 2**20:>7.0f}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Make the files that are missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "edgeembed-peers")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--kernels", choices=("auto", "llama.cpp"), default="auto")
    given = parser.parse_args()
    kinds = dict.fromkeys([BASE, *given.types.split(",")])
    files = {kind: make_weights(given.folder, "bert768", kind).typed(kind) for kind in kinds}
    rounds: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for _ in range(given.rounds):
        for kind, file in files.items():
            found = measure(file, given.seconds, given.threads, own_kernels=given.kernels == "auto")
            rounds[kind].append(asyncio.run(found))
    print(table({kind: best(found) for kind, found in rounds.items()}, files))


if __name__ == "__main__":
    main()
