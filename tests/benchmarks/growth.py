"""How time and memory grow with the length of texts, the number of clients, of loaded models, and of rows in the cache.

    python -m tests.benchmarks.growth --setup                                    make the weights, then measure all
    python -m tests.benchmarks.growth --only length,rows [--quick] [--docs docs] [--json growth.json]

Prints a table for each. `--docs` writes them into growth.md of that folder, between the marks that are there, and the plots
into growth/. `--quick` measures fewer and smaller points. `--most-rows 10000000` needs 21 GB of disk (`--scratch`); the
default is a million. Not more than a million rows are looked up in memory, which takes 2 GB.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import psutil

from edgeembed.diagnostics.bench.machine import busy_share, machine_facts
from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.engine.interface import INTERACTIVE
from edgeembed.engine.machine import usable_threads
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.models.profiles import DEFAULT_BATCH_TOKENS
from tests.benchmarks.cache_size import disk_hits, fill, memory_hits
from tests.benchmarks.compare import BUSY, DEFAULT_FOLDER
from tests.benchmarks.driver import Group, Job
from tests.benchmarks.engine import open_engine
from tests.benchmarks.peers import Edgeembed
from tests.benchmarks.place import ModelName, Place
from tests.benchmarks.plots import Panel, Points, svg
from tests.benchmarks.processes import Server
from tests.benchmarks.report import write_table
from tests.benchmarks.scenarios import percentile
from tests.benchmarks.weights import make_weights, weights_of

MIB = 2**20
LENGTHS: dict[ModelName, tuple[int, ...]] = {
    "minilm": (16, 32, 64, 128, 256, 500),
    "qwen3-short": (128, 512, 2048, 8192, 32_768),
}
QUICK_LENGTH = 8192
LENGTH_NAMES: dict[ModelName, str] = {"minilm": "MiniLM, 6 layers", "qwen3-short": "Qwen3-0.6B's shape, 2 layers"}
TOKENS_PER_WORD = 1.18
"""A little more than in the mean of `TextMaker`'s texts, so that the longest one is not cut."""
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MODELS = 8
ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
QUICK_ROWS = 100_000
DIMENSIONS = 384
MOST_IN_MEMORY = 1_000_000
LEAST = 0.1
"""In plots, whose axes have no 0."""


@dataclass(frozen=True)
class Given:
    """What the measurements are told."""

    place: Place
    seconds: float
    quick: bool
    most_rows: int
    scratch: Path


@dataclass(frozen=True)
class Grown:
    """A table, and the panels of its plot."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str | float, ...]]
    panels: tuple[Panel, ...]

    def lines(self) -> Iterator[str]:
        """Yield the lines of the table."""
        yield f"| {' | '.join(self.columns)} |"
        yield f"|{'---|' * len(self.columns)}"
        for row in self.rows:
            yield f"| {' | '.join(cell if isinstance(cell, str) else _number(cell) for cell in row)} |"


def length(given: Given) -> Grown:
    """Measure lone texts of growing length with the engine alone."""
    rows: list[tuple[str | float, ...]] = []
    times: dict[str, Points] = {}
    memory: dict[str, Points] = {}
    for model, lengths in LENGTHS.items():
        wanted = [tokens for tokens in lengths if not given.quick or tokens <= QUICK_LENGTH]
        found = asyncio.run(_lengths(given, model, wanted))
        name = LENGTH_NAMES[model]
        rows += [(name, tokens, ms, 1000 * ms / tokens, mib) for tokens, ms, mib in found]
        times[name] = [(tokens, ms) for tokens, ms, _ in found]
        memory[name] = [(tokens, mib) for tokens, _, mib in found]
    columns = ("model", "tokens", "ms", "us a token", "most MiB of the worker so far")
    panels = Panel("A lone text", "tokens", "ms", times), Panel("Memory of the worker", "tokens", "MiB", memory)
    return Grown(columns, rows, panels)


async def _lengths(given: Given, model: ModelName, lengths: Sequence[int]) -> list[tuple[float, float, float]]:
    """Return tokens, median milliseconds and the worker's peak memory in MiB for each length, in growing order."""
    texts = TextMaker(1)
    options = WorkerOptions(
        path=str(weights_of(given.place.folder, model).gguf),
        threads=given.place.threads,
        context_tokens=max(512, *lengths),
        batch_tokens=DEFAULT_BATCH_TOKENS,
        mode="cpu",
        extra_buffers=True,
        autotune=True,
    )
    found = []
    async with open_engine(options) as engine:
        pid = engine.status.worker_pid
        assert pid is not None
        await engine.submit([texts.text(8)], INTERACTIVE)[0]
        for tokens in lengths:
            waits: list[float] = []
            counts: list[int] = []
            until = time.perf_counter() + given.seconds
            while not waits or time.perf_counter() < until:
                text = texts.text(int(tokens / TOKENS_PER_WORD))
                began = time.perf_counter()
                row = await engine.submit([text], INTERACTIVE)[0]
                waits.append(time.perf_counter() - began)
                counts.append(row.tokens)
            found.append((statistics.median(counts), 1000 * statistics.median(waits), _peak_mib(pid)))
    return found


def _peak_mib(pid: int) -> float:
    """Return the most resident memory that a process has had; where the system does not tell, what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return float(psutil.Process(pid).memory_info().rss / MIB)


def clients(given: Given) -> Grown:
    """Measure the daemon with growing numbers of clients that each wait for their answer."""
    rows: list[tuple[str | float, ...]] = []
    server = _daemon(given)
    try:
        for number in CLIENTS:
            group = Group(clients=number, words=10)
            outcomes, _ = server.do(Job(port=0, groups=(group,), seconds=given.seconds, seed=7 * number))
            main = outcomes["main"]
            p50, p99 = (1000 * percentile(main.latencies, at) for at in (50, 99))
            rows.append((number, main.texts / main.seconds, p50, p99, server.resident_bytes / MIB))
    finally:
        server.end()
    columns = ("clients", "texts/s", "p50, ms", "p99, ms", "resident MiB")
    points = [_points(rows, at) for at in range(1, 5)]
    panels = (
        Panel("Rate, new texts of 10 words", "clients", "texts/s", {"texts/s": points[0]}),
        Panel("Latency", "clients", "ms", {"p50": points[1], "p99": points[2]}),
        Panel("Memory of daemon and worker", "clients", "MiB", {"resident": points[3]}),
    )
    return Grown(columns, rows, panels)


def models(given: Given) -> Grown:
    """Measure a daemon that loads one small model after the other."""
    folder = given.scratch / "models"
    folder.mkdir()
    flags = []
    for number in range(2, MODELS + 1):
        file = folder / f"model-{number}.gguf"
        _renamed_copy(weights_of(given.place.folder, "minilm").gguf, file, number)
        flags += ["--aliases", f"m{number}={file}"]
    rows: list[tuple[str | float, ...]] = []
    began = time.perf_counter()
    server = _daemon(given, flags)
    try:
        for number in range(1, MODELS + 1):
            if number > 1:
                began = time.perf_counter()
                server.embed(["hello"], model=f"m{number}")
            rows.append((number, 1000 * (time.perf_counter() - began), server.resident_bytes / MIB))
    finally:
        server.end()
    columns = ("models loaded", "until the new one has embedded a text, ms", "resident MiB")
    points = [_points(rows, at) for at in (1, 2)]
    panels = (
        Panel("Loading one more model", "models loaded", "ms", {"first text": points[0]}),
        Panel("Memory of daemon and workers", "models loaded", "MiB", {"resident": points[1]}),
    )
    return Grown(columns, rows, panels)


def _renamed_copy(source: Path, to: Path, number: int) -> None:
    """Copy a GGUF file with other bytes in its metadata, so that it is another model."""
    content = bytearray(source.read_bytes())
    key = b"general.name"
    at = content.index(key) + len(key) + 4  # behind the number of its type
    size = int.from_bytes(content[at : at + 8], "little")
    content[at + 8 + size - 1] = ord("0") + number
    to.write_bytes(content)


def _daemon(given: Given, flags: Sequence[str] = ()) -> Server:
    server = Edgeembed(flags).start(given.place, weights_of(given.place.folder, "minilm"))
    server.wait()
    return server


def rows(given: Given) -> Grown:
    """Measure hits as the cache grows, in memory and on disk; each size in a process of its own."""
    most = min(given.most_rows, QUICK_ROWS) if given.quick else given.most_rows
    found: list[tuple[str | float, ...]] = []
    for number in (number for number in ROWS if number <= most):
        folder = given.scratch / f"rows-{number}"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            written = pool.submit(fill, folder, number, DIMENSIONS).result()
            disk = pool.submit(disk_hits, folder, number).result()
            memory = pool.submit(memory_hits, number, DIMENSIONS).result() if number <= MOST_IN_MEMORY else None
        shutil.rmtree(folder)
        in_memory = (1000 * memory.p50_ms, 1000 * memory.p99_ms) if memory else ("", "")
        on_disk = (1000 * disk.p50_ms, 1000 * disk.p99_ms)
        found.append((number, *in_memory, *on_disk, written, memory.grown_mib if memory else "", disk.grown_mib))
    columns = (
        "rows",
        "hit in memory, p50, us",
        "p99",
        "hit on disk, p50, us",
        "p99",
        "MiB on disk",
        "MiB of memory, rows in memory",
        "MiB of memory, rows on disk",
    )
    points = [_points(found, at) for at in range(1, 8)]
    times = {"in memory, p50": points[0], "in memory, p99": points[1], "on disk, p50": points[2], "on disk, p99": points[3]}
    sizes = {"on disk": points[4], "in memory": points[5], "memory that rows on disk take": points[6]}
    x_title = f"rows of {DIMENSIONS} numbers"
    return Grown(columns, found, (Panel("A hit", x_title, "us", times), Panel("Size", x_title, "MiB", sizes)))


def _points(found: Sequence[tuple[str | float, ...]], at: int) -> Points:
    """Return a column over the first one, without empty cells."""
    cells = [(row[0], row[at]) for row in found]
    return [(x, max(y, LEAST)) for x, y in cells if not isinstance(x, str) and not isinstance(y, str)]


MEASURED: dict[str, Callable[[Given], Grown]] = {"length": length, "clients": clients, "models": models, "rows": rows}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def write_docs(docs: Path, name: str, grown: Grown) -> None:
    """Write a table into growth.md and its plot beside it."""
    write_table(docs / "growth.md", name, grown.lines())
    (docs / "growth").mkdir(exist_ok=True)
    (docs / "growth" / f"{name}.svg").write_text(svg(grown.panels), encoding="utf-8")


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True)
@click.option("--threads", type=int, default=usable_threads(), show_default=True)
@click.option("--only", help=f"Some of {', '.join(MEASURED)}, separated by commas.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Of one point, at least.")
@click.option("--quick", is_flag=True, help="Fewer and smaller points, one second each.")
@click.option("--most-rows", type=int, default=1_000_000, show_default=True)
@click.option("--scratch", type=click.Path(path_type=Path, exists=True), help="Where rows are written; they are removed.")
@click.option("--docs", type=click.Path(path_type=Path, exists=True), help="Folder of growth.md.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the tables there.")
@click.option("--setup", is_flag=True, help="Make the weights that are missing first.")
def main(
    folder: Path,
    threads: int,
    only: str | None,
    seconds: float,
    quick: bool,
    most_rows: int,
    scratch: Path | None,
    docs: Path | None,
    json_file: Path | None,
    setup: bool,
) -> None:
    """Measure, print the tables, write the plots."""
    names = only.split(",") if only else list(MEASURED)
    if unknown := [name for name in names if name not in MEASURED]:
        raise click.ClickException(f"no measurement {unknown[0]!r}; there is: {', '.join(MEASURED)}")
    place = Place(folder.absolute(), threads)
    if setup:
        for model in LENGTHS:
            make_weights(place.folder, model)
    busy = busy_share()
    click.echo(f"{json.dumps(machine_facts())}\nthreads {threads}")
    if busy > BUSY:
        click.echo(f"OTHER PROGRAMS TAKE {busy:.0%} OF THE PROCESSORS' TIME: THE FIGURES ARE WORTH LITTLE")
    written: dict[str, object] = {"machine": machine_facts(), "busy_before": busy}
    for name in names:
        with tempfile.TemporaryDirectory(dir=scratch) as temporary:
            grown = MEASURED[name](Given(place, 1.0 if quick else seconds, quick, most_rows, Path(temporary)))
        click.echo("\n".join(["", f"{name}:", *grown.lines()]))
        written[name] = {"columns": grown.columns, "rows": grown.rows}
        if docs:
            write_docs(docs, name, grown)
    if json_file:
        json_file.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
