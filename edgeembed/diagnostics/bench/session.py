"""Runs a whole benchmark, with a daemon started for it or with a running server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgeembed.config.resolution import Resolved
from edgeembed.diagnostics.bench.daemon import PeakMemory, own_daemon
from edgeembed.diagnostics.bench.load import Client
from edgeembed.diagnostics.bench.machine import busy_share, machine_facts
from edgeembed.diagnostics.bench.run import Cell, CellResult, Runner
from edgeembed.diagnostics.bench.texts import TextMaker

CACHE_OFF = "Cache off: every text is computed"
CACHE_HOT = "Cache hot: every text was sent before"
NEW_TEXTS = "New texts: none was sent before"
OLD_TEXTS = "Repeated texts: all were sent before"


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a server reports about itself; None for what it does not report."""

    url: str
    server: str | None = None
    model: str | None = None
    type: str | None = None
    """Quantisation type of most tensors."""
    parameters: int | None = None
    dimensions: int | None = None
    context_tokens: int | None = None
    mode: str | None = None
    threads: int | None = None
    llama_cpp: str | None = None


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. seed: of the texts; runs with the same seed send the same texts."""

    new: Sequence[Cell]
    repeated: Sequence[Cell]
    seconds: float
    seed: int


class BenchReport(msgspec.Struct, kw_only=True):
    """All results. Memory is in bytes; None for a server that was not started here."""

    machine: dict[str, str | int]
    busy_before: float
    """Share of the CPU time used by other programs before the start, from 0 to 1."""
    server: ServerFacts
    seed: int
    seconds: float
    results: list[CellResult] = []
    daemon_peak_bytes: int | None = None
    workers_peak_bytes: int | None = None

    @property
    def client_share(self) -> float:
        """The highest share of the CPU time used by the clients, from 0 to 1."""
        return max((result.client_share or 0.0 for result in self.results), default=0.0)


class BenchListener(Protocol):
    """Receives results while the benchmark runs."""

    def server(self, machine: dict[str, str | int], facts: ServerFacts) -> None:
        """Called once, before the first result."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Called with the number of cells done and of all cells."""
        ...

    def section(self, title: str, results: list[CellResult]) -> None:
        """Called with the results of related cells."""
        ...


async def measure_own(resolved: Resolved, model: Path, plan: BenchPlan, listener: BenchListener) -> BenchReport:
    """Start two daemons, one without and one with a cache, and measure them.

    Raises EngineUnavailableError when one does not start or ends early. No daemon is left running.
    """
    memory = PeakMemory()
    session = _Session(plan, listener)
    with ended_by_signals():
        async with own_daemon(resolved, model, cache=False, memory=memory) as daemon, Client(daemon.url) as client:
            await session.meet(client)
            await session.section(client, CACHE_OFF, plan.new)
        async with own_daemon(resolved, model, cache=True, memory=memory) as daemon, Client(daemon.url) as client:
            await session.section(client, CACHE_HOT, plan.repeated)
    session.report.daemon_peak_bytes, session.report.workers_peak_bytes = memory.daemon, memory.workers
    return session.report


async def measure_url(
    url: str, plan: BenchPlan, listener: BenchListener, *, model: str | None, api_key: str | None
) -> BenchReport:
    """Measure a running server of any make. model: name to send; None for the first one that it lists.

    Raises EngineUnavailableError when it does not answer.
    """
    session = _Session(plan, listener)
    with ended_by_signals():
        async with Client(url, model=model, api_key=api_key) as client:
            await session.meet(client)
            await session.section(client, NEW_TEXTS, plan.new)
            await session.section(client, OLD_TEXTS, plan.repeated)
    return session.report


class _Session:
    """One run, with its growing report."""

    def __init__(self, plan: BenchPlan, listener: BenchListener) -> None:
        self._plan = plan
        self._audience = listener
        self._maker = TextMaker(plan.seed)
        self._done = 0
        self._alone: dict[int, float] = {}
        self.report = BenchReport(
            machine=machine_facts(),
            busy_before=busy_share(),
            server=ServerFacts(url=""),
            seed=plan.seed,
            seconds=plan.seconds,
            results=[],
        )

    async def meet(self, client: Client) -> None:
        """Describe the server in the report."""
        self.report.server = await server_facts(client)
        client.model = client.model or (None if self.report.server.llama_cpp else self.report.server.model)
        self._audience.server(self.report.machine, self.report.server)

    async def section(self, client: Client, title: str, cells: Sequence[Cell]) -> None:
        """Measure cells and report the results."""
        runner = Runner(client, self._maker, self._plan.seconds, alone=self._alone)
        results = []
        for cell in cells:
            self._audience.progress(self._done, len(self._plan.new) + len(self._plan.repeated))
            results.append(await runner.measure(cell))
            self._done += 1
        self._audience.progress(self._done, len(self._plan.new) + len(self._plan.repeated))
        self.report.results += results
        self._audience.section(title, results)


async def server_facts(client: Client) -> ServerFacts:
    """Ask a server about itself; only edgeembed reports everything. Raises EngineUnavailableError without an answer."""
    _, said, server = await client.get("v1/status")
    url = str(client.base)
    if server.startswith("edgeembed/"):
        info: dict[str, Any] = said.get("model") or {}
        engine: dict[str, Any] = said.get("engine") or {}
        return ServerFacts(
            url=url,
            server=server.split()[0],
            model=info.get("name"),
            type=info.get("file_type"),
            parameters=info.get("parameters"),
            dimensions=info.get("dimensions"),
            context_tokens=info.get("context_tokens"),
            mode=engine.get("mode"),
            threads=info.get("threads"),
            llama_cpp=info.get("llama_cpp"),
        )
    _, listed, server = await client.get("v1/models")
    models = [entry for entry in listed.get("data") or [] if isinstance(entry, dict)]
    return ServerFacts(url=url, server=server or None, model=client.model or (models[0].get("id") if models else None))


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP cancel this task, as Ctrl-C does, so that no daemon is left behind."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    numbers = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    for number in numbers:
        with contextlib.suppress(NotImplementedError):  # the event loop of Windows
            loop.add_signal_handler(number, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
