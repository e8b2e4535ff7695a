"""What the daemon and its worker hold in memory: after each scenario of `compare`, by kind of mapping.

    python -m tests.benchmarks.memory --model MODEL.gguf                         a table: scenarios, and what is given back
    python -m tests.benchmarks.memory --model MODEL.gguf --mappings              and each process's mappings at the end
    python -m tests.benchmarks.memory --imports                                  what each imported module takes

Each scenario runs for a few seconds against one daemon, whose cache fills as in `compare run`. RSS counts a page in every
process that has it, PSS divides pages that are shared: of a shared library's pages, or of Python's. Linux only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from tests.benchmarks.processes import ROOT, Server
from tests.benchmarks.scenarios import SCENARIOS
from tests.ports import free_port

GOAL_MIB = 200
LOADS = ("lone10", "lone40", "many10", "bulk12", "bulk100", "mix")
ARENA_BYTES = 64 * 2**20
"""glibc aligns the heaps of its arenas to this size."""

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)")


@dataclass(frozen=True)
class Held:
    """Memory of one process, in bytes."""

    rss: int
    pss: int


@dataclass(frozen=True)
class Mapping:
    """One mapping of a process: where it lies, what it is, and what of it is resident."""

    kind: str
    start: int
    size: int
    rss: int
    name: str


def held(pid: int) -> Held:
    """Return what a process holds."""
    found = dict(_numbers(Path(f"/proc/{pid}/smaps_rollup").read_text()))
    return Held(found["Rss"], found["Pss"])


def mappings(pid: int) -> list[Mapping]:
    """Return the mappings of a process."""
    found: list[Mapping] = []
    block: list[str] = []
    for line in [*Path(f"/proc/{pid}/smaps").read_text().splitlines(), "0-0 ---p 0 0:0 0"]:
        if _HEADER.fullmatch(line) and block:
            found.append(_mapping(block))
            block = []
        block.append(line)
    return found


def _mapping(block: Sequence[str]) -> Mapping:
    header = _HEADER.fullmatch(block[0])
    assert header is not None
    start, end, name = int(header[1], 16), int(header[2], 16), header[4]
    rss = dict(_numbers("\n".join(block[1:]))).get("Rss", 0)
    return Mapping(_kind(name, start, end - start), start, end - start, rss, name)


def _kind(name: str, start: int, size: int) -> str:
    file = name.rpartition("/")[2]
    for kind, pattern in (
        ("llama.cpp and kernels", r"lib(llama|ggml|mtmd).*|_kernels.*"),
        ("NumPy and OpenBLAS", r".*openblas.*|libgfortran.*|libquadmath.*|_multiarray.*|_umath.*|lapack.*|.*numpy.*"),
        ("SQLite", r"_sqlite3.*|libsqlite3.*"),
        ("TLS", r"_ssl.*|libssl.*|libcrypto.*"),
        ("Python", r"python3.*|libpython.*"),
    ):
        if re.fullmatch(pattern, file) or ("/numpy/" in name and kind.startswith("NumPy")):
            return kind
    if name == "[heap]":
        return "heap, main"
    if name.startswith("["):
        return "stack, main" if name == "[stack]" else "kernel's"
    if name:
        return "other files"
    if start % ARENA_BYTES == 0 and size <= ARENA_BYTES:
        return "heap, arenas"
    return "anonymous"


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.split()[0]) * 1024


@dataclass(frozen=True)
class Row:
    """What daemon and workers hold at one moment."""

    when: str
    daemon: Held
    worker: Held
    rate: str = ""

    def __str__(self) -> str:
        rss, pss = self.daemon.rss + self.worker.rss, self.daemon.pss + self.worker.pss
        verdict = "" if rss <= GOAL_MIB * 2**20 else f"  over {GOAL_MIB}"
        cells = (self.daemon.rss, self.worker.rss, rss, pss)
        return (
            f"{self.when:<28}" + "".join(f"{cell / 2**20:>9.1f}" for cell in cells) + f"  {self.rate:<18}{verdict}".rstrip()
        )


HEADER = f"{'MiB':<28}{'daemon':>9}{'worker':>9}{'RSS':>9}{'PSS':>9}"


def state_of(server: Server, when: str, rate: str = "") -> Row:
    """Return what a daemon and its workers hold now."""
    daemon = psutil.Process(server.process.pid)
    workers = [held(child.pid) for child in daemon.children(recursive=True)]
    together = Held(sum(each.rss for each in workers), sum(each.pss for each in workers))
    return Row(when, held(daemon.pid), together, rate)


def print_mappings(pid: int, title: str) -> None:
    """Print what a process holds by kind, and its largest mappings."""
    kinds: Counter[str] = Counter()
    found = mappings(pid)
    for each in found:
        kinds[each.kind] += each.rss
    click.echo(f"\n{title}: {sum(kinds.values()) / 2**20:.1f} MiB")
    for kind, size in kinds.most_common():
        click.echo(f"  {kind:<28}{size / 2**20:>9.1f}")
    for each in sorted(found, key=lambda each: -each.rss)[:16]:
        click.echo(f"    {each.rss / 2**20:>7.1f} of {each.size / 2**20:>7.1f}  {each.start:#x}  {each.name or each.kind}")


def print_imports() -> None:
    """Print how much each module that daemon and worker import adds to a process, with what it imports itself."""
    code = (
        "import sys, importlib\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1]) * 4\n"
        "depth, found = 0, []\n"
        "import importlib._bootstrap as b\n"
        "load = b._load_unlocked\n"
        "def measured(spec):\n"
        "    global depth\n"
        "    before = rss(); depth += 1\n"
        "    try: return load(spec)\n"
        "    finally:\n"
        "        depth -= 1; found.append((rss() - before, depth, spec.name))\n"
        "b._load_unlocked = measured\n"
        "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "importlib.import_module(sys.argv[1])\n"
        "b._load_unlocked = load\n"
        "for kib, depth, name in sorted(found, reverse=True)[:60]: print(f'{kib / 1024:8.1f}  {depth:3}  {name}')\n"
        "print(f'{rss() / 1024:8.1f}       resident at the end, {len(sys.modules)} modules')\n"
    )
    for title, module in (("daemon", "edgeembed.server.lifecycle"), ("worker", "edgeembed.engine.worker.serving")):
        click.echo(f"\n{title}: {module}; MiB with what it imports, depth, module")
        done = subprocess.run([sys.executable, "-P", "-c", code, module], capture_output=True, text=True, check=True)
        click.echo(done.stdout.rstrip())


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), help="The model's file.")
@click.option("--scenarios", default=",".join(LOADS), show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of each scenario.")
@click.option("--idle", type=float, default=40.0, show_default=True, help="Seconds that are watched after the last one.")
@click.option("--mappings", "with_mappings", is_flag=True, help="Print the mappings of each process after the loads.")
@click.option("--imports", is_flag=True, help="Print what imported modules take, and end.")
@click.option("--rows", type=int, default=0, help="Then embed so many short texts, to fill the cache as a longer run would.")
@click.option("--flags", default="", help="Flags of `edgeembed serve`.")
def main(
    model: Path | None,
    scenarios: str,
    seconds: float,
    idle: float,
    with_mappings: bool,
    imports: bool,
    rows: int,
    flags: str,
) -> None:
    """Print what daemon and worker hold in memory."""
    if imports:
        print_imports()
        return
    if model is None:
        raise click.UsageError("name a model's file with --model")
    with tempfile.TemporaryDirectory(prefix="edgeembed-memory-") as folder:
        server = _start(model.absolute(), Path(folder), flags.split())
        try:
            server.wait()
            click.echo(f"{HEADER}\n{state_of(server, 'ready')}")
            for name in scenarios.split(","):
                rates = []
                for job in SCENARIOS[name].jobs(seconds, seed=int.from_bytes(os.urandom(4))).values():
                    outcomes, _ = server.do(job)
                    rates += [f"{each.texts / each.seconds:,.0f} texts/s" for each in outcomes.values()]
                click.echo(str(state_of(server, name, rates[-1])))
            if rows:
                for first in range(0, rows, 256):
                    server.embed([f"row {number}" for number in range(first, first + 256)])
                click.echo(str(state_of(server, f"{rows:,} rows more")))
            if with_mappings:
                for process in (psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()):
                    print_mappings(process.pid, "daemon" if process.pid == server.process.pid else "worker")
            began = time.monotonic()
            while (waited := time.monotonic() - began) < idle:
                time.sleep(min(5.0, idle - waited))
                click.echo(str(state_of(server, f"{time.monotonic() - began:.0f} s later")))
        finally:
            server.end()


def _start(model: Path, folder: Path, flags: Sequence[str]) -> Server:
    port = free_port()
    command = [sys.executable, "-P", "-m", "edgeembed", "serve", "--model", str(model), "--port", str(port), *flags]
    path = os.pathsep.join([str(ROOT), str(ROOT / ".ci" / "typed")])
    environment = {"EDGEEMBED_HOME": str(folder / "home"), "PYTHONPATH": path}
    return Server("edgeembed", command, environment, folder / "log", port=port, body={})


if __name__ == "__main__":
    main()
