"""How much of the product kernel's own rate a decoder of Qwen3-0.6B's shape reaches, and how its cost grows with length.

    python -m tests.benchmarks.decoder [--layers 6] [--type Q8_0] [--tokens 100] [--rounds 30]
    python -m tests.benchmarks.decoder --lengths 512 2048 8192 32768
    python -m tests.benchmarks.decoder --keep FILE   # write the model there, or use the one that is there

The model has random weights and a vocabulary of bytes. One thread computes, as in a bulk lane, and the time is that thread's
processor time, the least of all rounds, so that other load on the machine matters little. A layer costs the same as in the
whole model of 28 layers; only multiplications that are really done are counted (see `ceiling`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

from edgeembed.engine.llama.library import send_log_to
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker_options import WorkerOptions
from tests.benchmarks.ceiling import Products
from tests.engine.tiny_qwen3 import Qwen3Sizes, make_tiny_qwen3

LONGEST = 32_768
TOKENS = 100
BATCH_TOKENS = 128


def qwen3_sizes(layers: int) -> Qwen3Sizes:
    """Return the sizes of Qwen3-0.6B with another number of layers."""
    return Qwen3Sizes(layers, width=1024, heads=16, kv_heads=8, head=128, feed_forward=3072, context=LONGEST)


def open_model(file: Path, context: int, *, batch: int = BATCH_TOKENS, threads: int = 1) -> LlamaModel:
    """Load the model as a worker does."""
    options = WorkerOptions(
        path=str(file), threads=threads, context_tokens=context, batch_tokens=batch, mode="cpu", extra_buffers=True
    )
    return LlamaModel(options)


def time_text(model: LlamaModel, tokens: int, rounds: int) -> float:
    """Return the processor time of a text of this length, the least of all rounds, in seconds."""
    rng = np.random.default_rng(2)
    found = float("inf")
    for _ in range(rounds):
        text = Reading(rng.integers(0, 256, tokens, dtype=np.int32))
        start = time.thread_time()
        model.wide.compute([text])
        found = min(found, time.thread_time() - start)
    return found


def share_of_ceiling(file: Path, *, tokens: int = TOKENS, rounds: int = 30) -> dict[str, float]:
    """Return tokens a second of one thread and the share of the product's own rate that its multiplications reach."""
    products = Products.read(file)
    model = open_model(file, 512)
    rates, times = [], []
    try:
        for _ in range(5):  # in turns, the best of each: the processor's clock changes
            rates.append(products.rate(1, tokens=tokens, seconds=0.2))
            times.append(time_text(model, tokens, -(-rounds // 5)))
    finally:
        model.close()
    return {
        "tokens/s": tokens / min(times),
        "product, G/s": max(rates) / 1e9,
        "share of the product's ceiling": products.of_text(tokens) / min(times) / max(rates),
    }


def own_mebibytes() -> float:
    """Return this process's proportional share of memory (PSS)."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system does not tell a process's share of memory")


def growth(file: Path, lengths: list[int]) -> list[dict[str, float]]:
    """Return processor time and memory by length, each with a context of its own size."""
    found = []
    for tokens in lengths:
        model = open_model(file, tokens)
        before = own_mebibytes()
        seconds = time_text(model, tokens, max(1, 2048 // tokens))
        cost = 1e6 * seconds / tokens
        found.append({"tokens": tokens, "cpu ms/1k tokens": cost, "loaded MiB": before, "after MiB": own_mebibytes()})
        model.close()
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--type", default="Q8_0", choices=["F32", "F16", "BF16", "Q8_0"])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    send_log_to(lambda _: None, verbose=False)
    sizes = qwen3_sizes(arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.keep or Path(folder) / "qwen3.gguf"
        if not file.exists():
            make_tiny_qwen3(file, sizes=sizes, matrices=gguf.GGMLQuantizationType[arguments.type])
        if arguments.lengths:
            rows = growth(file, arguments.lengths)
        else:
            rows = [share_of_ceiling(file, tokens=arguments.tokens, rounds=arguments.rounds)]
        print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(f"{value:,.3g}" if value < 1 else f"{value:,.0f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
