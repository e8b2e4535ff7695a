"""Measure what one worker does on this machine: the inputs `cpu_ms_*`, `host_ms_*`, `threads_busy` and `bytes_row`.

    python -m tests.benchmarks.scale.measure MODEL.gguf [--rounds 3] [--seconds 6] [--one-layer]

Runs `edgeembed embed` without a daemon over lines of one length, twice: over a few texts, and over many. The difference is
free of the start. One process with one thread; one with two; and two with one thread each, side by side. Prints
texts per second by the clock, processor time per text, and bytes of output per row; of the rounds, the fastest counts.
The machine must be otherwise idle: rates are worthless else, processor time tolerates other work.

`--one-layer` measures a copy of the model that has lost all layers but the first. With L layers the time of the others is
(L - 1) / L of the products, so the two measurements give the time that no layer takes: reading, tokens, batches, output.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gguf

from edgeembed.diagnostics.bench.texts import TextMaker

WORDS = {10: 7, 40: 33, 100: 84, 400: 343}
"""Tokens, the two special ones of BERT included -> words of TextMaker, which are 1.16 tokens each."""
RATES = {10: 1500, 40: 600, 100: 260, 400: 60}
"""Texts per second that one thread was seen to reach, for the number of texts of a run."""
SPREAD = 4
"""The long run has this many times the texts of the short one."""


@dataclass(frozen=True)
class Load:
    """One way to run: so many jobs side by side, with so many threads each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        jobs, threads = ("process", "processes")[self.processes > 1], ("thread", "threads")[self.threads > 1]
        return f"{self.processes} {jobs} of {self.threads} {threads}"


LOADS = (Load(1, 1), Load(1, 2), Load(2, 1))


def write_lines(folder: Path, tokens: int, count: int, seed: int) -> Path:
    """Write a file of new texts of a length."""
    path = folder / f"{tokens}-{count}-{seed}.txt"
    maker = TextMaker(seed)
    path.write_text("".join(f"{maker.text(WORDS[tokens])}\n" for _ in range(count)), encoding="utf-8")
    return path


def run(model: str, files: list[Path], threads: int, folder: Path) -> tuple[float, float, int]:
    """Embed each file in a process of its own, side by side. Return wall seconds, processor seconds, bytes of output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
    environment |= {"EDGEEMBED_HOME": str(folder / "home"), "EDGEEMBED_CONTEXT_TOKENS": "512"}
    environment["EDGEEMBED_THREADS"] = str(threads)
    outputs = [folder / f"out{number}.parquet" for number in range(len(files))]
    for output in outputs:
        output.unlink(missing_ok=True)
    began, times = time.monotonic(), os.times()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "edgeembed", "embed", str(file), "-o", str(output), "--model", model, "--no-daemon"],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        for file, output in zip(files, outputs, strict=True)
    ]
    if any(job.wait() for job in jobs):
        raise SystemExit("a job failed")
    wall, ended = time.monotonic() - began, os.times()
    busy = ended.children_user + ended.children_system - times.children_user - times.children_system
    return wall, busy, sum(output.stat().st_size for output in outputs)


def one_layer(model: Path, folder: Path) -> Path:
    """Write a copy of a GGUF file without the layers behind the first, nor the rows that the engine checks itself by."""
    reader, path = gguf.GGUFReader(model), folder / "one-layer.gguf"
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(path, architecture)
    blocks = gguf.Keys.LLM.BLOCK_COUNT.format(arch=architecture)
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "edgeembed.canary.")) or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        kind, items = field.types[0], field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, 1 if field.name == blocks else field.contents(), kind, sub_type=items)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.startswith("blk.0."):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file or an installed model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of a thread's computing in the long run")
    parser.add_argument("--tokens", type=int, nargs="+", choices=sorted(WORDS), default=sorted(WORDS))
    parser.add_argument("--one-thread", action="store_true", help="only one process of one thread")
    parser.add_argument("--one-layer", action="store_true", help="of a copy with one layer")
    chosen = parser.parse_args()
    print("| tokens | load | texts/s | processor ms a text | bytes a row |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = str(one_layer(Path(chosen.model), folder)) if chosen.one_layer else chosen.model
        for tokens in chosen.tokens:
            most = max(int(RATES[tokens] * chosen.seconds), SPREAD)
            few, many = ([write_lines(folder, tokens, count, seed) for seed in range(2)] for count in (most // SPREAD, most))
            for load in LOADS[: 1 if chosen.one_thread else len(LOADS)]:
                rates = []
                for _ in range(chosen.rounds):
                    short = run(model, few[: load.processes], load.threads, folder)
                    long = run(model, many[: load.processes], load.threads, folder)
                    texts = load.processes * (most - most // SPREAD)
                    wall, busy, size = (more - less for more, less in zip(long, short, strict=True))
                    rates.append((texts / wall, 1000 * busy / texts, size / texts))
                rate, busy, size = max(rates)
                print(f"| {tokens} | {load} | {rate:,.0f} | {busy:.3f} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
