"""`edgeembed bench`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.printing import print_fields, print_json, print_table, to_stderr
from edgeembed.cli.settings import setting_options, split_flags

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from edgeembed.common.progress import Progress
    from edgeembed.config.resolution import Resolved
    from edgeembed.diagnostics.bench.run import CellResult
    from edgeembed.diagnostics.bench.session import BenchPlan, BenchReport, ServerFacts
    from edgeembed.diagnostics.bench.stages import StageReport

DEFAULT_SECONDS = 3.0
QUICK_SECONDS = 1.0
START_SECONDS = 5.0
"""Start-up time of two daemons with a small model."""

BUSY = 0.15
"""Share of the CPU time used by other programs above which the summary mentions it."""


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """The flags of the command, apart from those that are settings."""

    quick: bool
    trace: bool
    seconds: float | None
    url: str | None
    api_key: str | None
    seed: int | None
    as_json: bool


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--quick", is_flag=True, help="Measure less: two lengths of text, one second each.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), help=f"Duration of each measurement.  [default: {DEFAULT_SECONDS:g}]"
)
@click.option("--trace", is_flag=True, help="Print where the time of a single 10-word query goes, stage by stage.")
@click.option("--url", help="Measure a running server instead, of any make, that has /v1/embeddings.")
@click.option("--api-key", help="API key of the server, for --url.")
@click.option("--seed", type=int, help="Repeat the texts of an earlier run, which printed this number.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("threads", "context_tokens", "offline")
def bench(model: str | None, **flags: Any) -> None:
    """Measure how fast MODEL is on this machine: latency and texts per second, by text length and number of clients.

    Starts a separate daemon on a free port, with your settings and an empty cache in a temporary folder, and stops it at
    the end. Your own daemon and its cache are not used; if it is busy meanwhile, the results are too low.

    Texts consist of English words and are never repeated, except to measure the cache. With --url, MODEL is the name that is
    sent, and results for a server on another machine include the network.

    \b
    Examples:
      edgeembed bench                                    the configured model
      edgeembed bench all-minilm-l6-v2:F16 --quick
      edgeembed bench ./my-model.gguf --json > before.json
      edgeembed bench --trace                            where the time of a query goes
      edgeembed bench --url http://127.0.0.1:8080        another server, same texts
    """
    import asyncio

    from edgeembed.common.logs import setup_logging
    from edgeembed.common.progress import Progress
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.bench.session import measure_own, measure_url

    settings, options = split_flags(flags, BenchFlags)
    if options.trace and options.url:
        raise click.UsageError("--trace measures a daemon of its own; leave --url out")
    resolved = resolve(settings)
    setup_logging("error")
    plan = _plan(options)
    name = model or resolved.settings.model
    path = None if options.url else _installed(name, resolved)
    if options.trace:
        assert path is not None
        _trace(resolved, path, plan, as_json=options.as_json)
        return
    _announce(plan, url=options.url)
    with Progress(to_stderr, "measuring", unit=" measurements") as progress:
        listener = _BenchPrinter(progress, silent=options.as_json)
        if path is None:
            assert options.url is not None
            report = asyncio.run(measure_url(options.url, plan, listener, model=model, api_key=options.api_key))
        else:
            report = asyncio.run(measure_own(resolved, path, plan, listener))
    if options.as_json:
        print_json(report)
    else:
        _print_summary(report)
    if not any(result.requests for result in report.results):
        sys.exit(1)


def _trace(resolved: Resolved, path: Path, plan: BenchPlan, *, as_json: bool) -> None:
    """Measure and print the stages of a query."""
    import asyncio

    from edgeembed.diagnostics.bench.session import ended_by_signals
    from edgeembed.diagnostics.bench.stages import StageTime, measure_stages

    async def measure() -> StageReport:
        with ended_by_signals():
            return await measure_stages(resolved, path, plan.seconds, plan.seed)

    report = asyncio.run(measure())
    if as_json:
        print_json(report)
        return

    def row(time: StageTime, indent: str = "") -> tuple[str, ...]:
        microseconds = (f"{value:,.0f}" for value in (time.least_us, time.median_us, time.p99_us))
        return f"{indent}{time.stage}", *microseconds, f"{time.share:.1%}"

    rows: list[tuple[str, ...]] = []
    for stage in report.stages:
        rows.append(row(stage))
        rows += [row(part, "  ") for part in report.parts if part.stage.startswith(f"{stage.stage}: ")]
    click.echo(f"{report.requests} requests, one after another, with a new text of {report.words} words each")
    numbers = ("LEAST US", "MEDIAN US", "P99 US", "SHARE")
    print_table(("STAGE", *numbers), [*rows, row(report.total)], right=numbers)


def _plan(flags: BenchFlags) -> BenchPlan:
    import secrets

    from edgeembed.diagnostics.bench.run import plan_cells
    from edgeembed.diagnostics.bench.session import BenchPlan

    new, repeated = plan_cells(quick=flags.quick)
    seconds = flags.seconds or (QUICK_SECONDS if flags.quick else DEFAULT_SECONDS)
    seed = secrets.randbits(32) if flags.seed is None else flags.seed
    return BenchPlan(new=new, repeated=repeated, seconds=seconds, seed=seed)


def _installed(name: str | None, resolved: Resolved) -> Path:
    """Return the file of a model, which is installed first if need be. Raises ConfigError without a name."""
    from edgeembed.errors import ConfigError
    from edgeembed.hub.install import ensure_installed

    if name is None:
        raise ConfigError("no model is configured; name one: edgeembed bench MODEL")
    return ensure_installed(name, paths=resolved.paths, settings=resolved.settings, report=to_stderr).path


def _announce(plan: BenchPlan, *, url: str | None) -> None:
    from edgeembed.common.progress import human_time
    from edgeembed.diagnostics.bench.run import expected_seconds

    cells = [*plan.new, *plan.repeated]
    total = expected_seconds(cells, plan.seconds) + (0 if url else START_SECONDS)
    to_stderr(f"{len(cells)} measurements of {plan.seconds:g} s: about {human_time(total)}, longer with a slow model")


def _print_summary(report: BenchReport) -> None:
    from edgeembed.common.progress import human_size

    memory = None
    if report.daemon_peak_bytes and report.workers_peak_bytes:
        memory = f"daemon {human_size(report.daemon_peak_bytes)}, worker {human_size(report.workers_peak_bytes)}"
    click.echo()
    print_fields(
        [
            ("peak memory", memory),
            ("clients", f"used up to {report.client_share:.0%} of the CPU time"),
            ("seed", str(report.seed)),
        ]
    )
    if report.busy_before > BUSY:
        click.echo(
            f"Other programs used {report.busy_before:.0%} of the CPU time before the start; results are better on an idle "
            "machine."
        )


class _BenchPrinter:
    """Prints results as they arrive; see `BenchListener`."""

    def __init__(self, progress: Progress, *, silent: bool) -> None:
        self._progress = progress
        self._silent = silent

    def server(self, machine: dict[str, str | int], facts: ServerFacts) -> None:
        if self._silent:
            return
        usable, processors = machine["processors_usable"], machine["processors"]
        model = [facts.model or "unknown", facts.type, facts.dimensions and f"{facts.dimensions} dimensions"]
        if facts.parameters:
            model.append(f"{facts.parameters / 1e6:,.0f} million parameters")
        with _beside_the_bar():
            print_fields(
                [
                    ("processor", f"{machine['processor']}, {usable} of {processors} usable, {machine['system']}"),
                    ("model", ", ".join(str(part) for part in model if part)),
                    ("server", facts.server or facts.url),
                    ("threads", str(facts.threads) if facts.threads else None),
                    ("mode", facts.mode),
                    ("llama.cpp", facts.llama_cpp and facts.llama_cpp.replace(" = 1", "").replace(" |", "")),
                ]
            )

    def progress(self, done: int, total: int) -> None:
        self._progress.update(done, total)

    def section(self, title: str, results: list[CellResult]) -> None:
        if self._silent:
            return
        with _beside_the_bar():
            click.echo(f"\n{title}")
            print_table(
                ("WORDS", "LOAD", "P50 MS", "P90 MS", "P99 MS", "TEXTS/S", "TOKENS/S"),
                [_row(result) for result in results],
                right=("WORDS", "P50 MS", "P90 MS", "P99 MS", "TEXTS/S", "TOKENS/S"),
                spare=("P90 MS", "TOKENS/S"),
            )
            for result in results:
                if result.note:
                    click.echo(f"{result.words} words, {result.load}: {result.note}")


def _row(result: CellResult) -> tuple[str, ...]:
    def number(value: float | None, digits: int = 0) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    latencies = (number(value, 1) for value in (result.p50_ms, result.p90_ms, result.p99_ms))
    return str(result.words), result.load, *latencies, number(result.texts_per_second), number(result.tokens_per_second)


def _beside_the_bar() -> AbstractContextManager[None]:
    """Remove the bar from the terminal while lines are printed."""
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stdout)
