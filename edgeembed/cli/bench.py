"""`edgeembed bench`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from edgeembed.cli.printing import print_fields, print_json, print_table
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edgeembed.common.progress import Progress
    from edgeembed.diagnostics.bench.run import CellResult
    from edgeembed.diagnostics.bench.session import ServerFacts

DEFAULT_SECONDS = 3.0
QUICK_SECONDS = 1.0
START_SECONDS = 5.0
"""What the starts of two daemons take with a small model; a large one takes longer, and says so itself."""

BUSY = 0.15
"""Share of the processors' time from which on other programs are worth a word."""


@click.command()
@click.argument("model", required=False)
@click.option("--quick", is_flag=True, help="Measure less: two lengths, one second each.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), help=f"Seconds of each measurement.  [default: {DEFAULT_SECONDS:g}]"
)
@click.option("--url", help="Measure a server that runs already, of any make that has /v1/embeddings.")
@click.option("--api-key", help="With --url: the key that this server asks for.")
@click.option("--seed", type=int, help="Send the texts of an earlier run again; it printed the number.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("threads", "context_tokens", "offline")
def bench(
    model: str | None,
    quick: bool,
    seconds: float | None,
    url: str | None,
    api_key: str | None,
    seed: int | None,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Measure how fast MODEL is on this machine: latency and texts per second, by length and number of clients.

    A daemon of its own is started on a free port, with the settings in force and a cache in a temporary folder, and stopped
    at the end; your own daemon and its cache are left alone. While your own daemon computes, the figures are too low.

    Texts are made up of English words and never the same twice, except where the cache is measured. With --url MODEL is the
    name to send; figures for a server elsewhere are of the network, too.

    \b
    Examples:
      edgeembed bench                                    the model of the settings
      edgeembed bench all-minilm-l6-v2:F16 --quick
      edgeembed bench ./my-model.gguf --json > before.json
      edgeembed bench --url http://127.0.0.1:8080        another server, the same texts
    """
    import asyncio
    import secrets

    from edgeembed.common.logs import setup_logging
    from edgeembed.common.progress import Progress, human_size, human_time
    from edgeembed.config.resolution import resolve
    from edgeembed.diagnostics.bench.run import expected_seconds, plan
    from edgeembed.diagnostics.bench.session import BenchPlan, measure_own, measure_url
    from edgeembed.errors import ConfigError
    from edgeembed.hub.install import ensure_installed

    resolved = resolve(flags)
    setup_logging("error")
    new, repeated = plan(quick=quick)
    seconds = seconds or (QUICK_SECONDS if quick else DEFAULT_SECONDS)
    what = BenchPlan(new=new, repeated=repeated, seconds=seconds, seed=secrets.randbits(32) if seed is None else seed)
    name = model or resolved.settings.model
    if name is None and not url:
        raise ConfigError("no model is chosen yet; name one: edgeembed bench MODEL")
    installed = None
    if not url:
        assert name is not None
        installed = ensure_installed(name, paths=resolved.paths, settings=resolved.settings, report=_say)
    total = expected_seconds([*new, *repeated], seconds) + (0 if url else START_SECONDS)
    _say(f"{len(new) + len(repeated)} measurements of {seconds:g} s: about {human_time(total)}, longer with a slow model")
    with Progress(_say, "measuring", unit=" measurements") as progress:
        listener = _BenchPrinter(progress, silent=as_json)
        if installed is None:
            assert url is not None
            report = asyncio.run(measure_url(url, what, listener, model=model, api_key=api_key))
        else:
            report = asyncio.run(measure_own(resolved, installed.path, what, listener))
    if as_json:
        print_json(report)
    else:
        memory = None
        if report.daemon_peak_bytes and report.workers_peak_bytes:
            memory = f"daemon {human_size(report.daemon_peak_bytes)}, worker {human_size(report.workers_peak_bytes)}"
        share = f"took up to {report.client_share:.0%} of the processors' time"
        click.echo()
        print_fields([("peak memory", memory), ("clients", share), ("seed", str(report.seed))])
        if report.busy_before > BUSY:
            click.echo(
                f"Other programs took {report.busy_before:.0%} of the processors' time before the start: on a quiet "
                "machine the figures are better."
            )
    if not any(result.requests for result in report.results):
        sys.exit(1)


class _BenchPrinter:
    """Prints what comes while it is measured; see BenchListener."""

    def __init__(self, progress: Progress, *, silent: bool) -> None:
        self._progress = progress
        self._silent = silent

    def server(self, machine: dict[str, str | int], facts: ServerFacts) -> None:
        if self._silent:
            return
        usable, processors = machine["processors_usable"], machine["processors"]
        model = [facts.model or "unknown", facts.type, facts.dimensions and f"{facts.dimensions} dimensions"]
        if facts.parameters:
            model.append(f"{facts.parameters / 1e6:,.0f} million weights")
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
    """Take the bar off the terminal while lines are printed."""
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stdout)


def _say(line: str) -> None:
    click.echo(line, err=True)
