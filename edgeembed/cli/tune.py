"""`edgeembed tune`."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.printing import print_json, print_table, to_stderr
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from edgeembed.config.resolution import Resolved
    from edgeembed.hub.store import InstalledModel
    from edgeembed.models.profiles import Measurement, RunProfile, TuningResult

TITLES = ("TYPE", "THREADS", "LANES", "BATCH TOKENS", "PADDING", "10 WORDS", "40 WORDS", "BULK")


@click.command()
@click.argument("spec", metavar="[MODEL]", required=False, shell_complete=complete_model)
@click.option(
    "--seconds", default=3.0, show_default=True, type=click.FloatRange(min=0.2), help="Duration of each measurement."
)
@click.option("--quick", is_flag=True, help="Try only numbers of threads.")
@click.option("--forget", is_flag=True, help="Forget saved results and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("threads", "context_tokens", "offline")
def tune(spec: str | None, seconds: float, quick: bool, forget: bool, as_json: bool, **flags: str | None) -> None:
    """Find the fastest way to run MODEL, or the configured model, on this machine, and save it for the daemon.

    Tries numbers of threads, lanes for bulk loads, batch sizes, and the length from which short texts are padded for faster
    attention; on a GPU only batch sizes. The result applies to this machine, this build of llama.cpp and this file. The
    settings `threads` and `batch_tokens` override it. If several types of a model are installed, each is measured.

    \b
    edgeembed tune                          the configured model; a minute for a small one
    edgeembed tune all-minilm-l6-v2         every installed type of a model
    edgeembed tune all-minilm-l6-v2:Q8_0 --seconds 10

    A busy daemon distorts the measurements: stop it first, or do not use it meanwhile.
    """
    from edgeembed.common.logs import setup_logging
    from edgeembed.config.resolution import resolve
    from edgeembed.errors import ConfigError
    from edgeembed.models.profiles import TuningResults

    resolved = resolve(flags)
    setup_logging("error")
    name = spec or resolved.settings.model
    if name is None:
        raise ConfigError("no model is configured; name one: edgeembed tune MODEL")
    models = _models(resolved, name)
    tuning_results = TuningResults(resolved.paths.state)
    if forget:
        for model in models:
            found = tuning_results.forget(model.digest)
            click.echo(f"{model.spec}: {'forgotten' if found else 'no saved result'}")
        return
    results: list[tuple[InstalledModel, TuningResult]] = []
    for model in models:
        to_stderr(f"{model.spec}: measuring; keep the machine idle meanwhile")
        tuned = _tune(resolved, model, seconds, quick=quick)
        tuning_results.keep(model.digest, tuned)
        results.append((model, tuned))
    if as_json:
        print_json([{"model": model.spec, "tuned": tuned} for model, tuned in results])
        return
    print_table(
        TITLES,
        [_row(model.type, each, each.profile == tuned.profile) for model, tuned in results for each in tuned.measured],
    )
    for model, tuned in results:
        click.echo(f"{model.spec}: saved the profile marked *, {tuned.gain:.2f} times as fast as the first one")
    if len(results) > 1:
        _advise(results)


def _models(resolved: Resolved, name: str) -> list[InstalledModel]:
    """Return the models to measure: one, or every installed type of a name without type."""
    from edgeembed.hub.install import ensure_installed
    from edgeembed.hub.store import Store

    several = [model for model in Store(resolved.paths).installed() if model.name == name]
    if len(several) > 1:
        return several
    return [ensure_installed(name, paths=resolved.paths, settings=resolved.settings, report=to_stderr)]


def _tune(resolved: Resolved, model: InstalledModel, seconds: float, *, quick: bool) -> TuningResult:
    from edgeembed.diagnostics.tune import measurer, tune
    from edgeembed.engine.machine import usable_threads
    from edgeembed.models.profiles import RunProfile
    from edgeembed.runtime.engines import make_engine

    def show(measurement: Measurement) -> None:
        profile = measurement.profile
        lanes = "auto" if profile.bulk_lanes is None else profile.bulk_lanes
        to_stderr(
            f"  threads {profile.threads}, lanes {lanes}, batch tokens {_batch(measurement)}, padding {_padding(profile)}: "
            f"{measurement.query_ms:.1f} ms, {measurement.sentence_ms:.1f} ms, "
            f"{measurement.tokens_per_second:,.0f} tokens/s"
        )

    start = RunProfile(threads=resolved.settings.threads or usable_threads())
    make = functools.partial(make_engine, resolved.settings, resolved.paths, model)
    return asyncio.run(
        tune(measurer(lambda profile: make(profile), seconds), start, thorough=not quick, on_measurement=show)
    )


def _batch(measurement: Measurement) -> str:
    """Return the batch size that was measured."""
    if measurement.on_card:
        return f"{measurement.profile.card_batch_tokens or 'auto'} (GPU)"
    return str(measurement.profile.batch_tokens)


def _padding(profile: RunProfile) -> str:
    """Return the length from which texts are padded."""
    if profile.pad_from_tokens is None:
        return "auto"
    return f"from {profile.pad_from_tokens}" if profile.pad_from_tokens else "off"


def _row(type_: str, measurement: Measurement, best: bool) -> tuple[str, ...]:
    profile = measurement.profile
    return (
        f"{type_}{' *' if best else ''}",
        str(profile.threads),
        "auto" if profile.bulk_lanes is None else str(profile.bulk_lanes),
        _batch(measurement),
        _padding(profile),
        f"{measurement.query_ms:.2f} ms",
        f"{measurement.sentence_ms:.2f} ms",
        f"{measurement.tokens_per_second:,.0f} tokens/s",
    )


def _advise(results: list[tuple[Any, TuningResult]]) -> None:
    """Print which type is fastest; how much quality it may cost is the user's decision."""
    best = {model.spec: next(each for each in tuned.measured if each.profile == tuned.profile) for model, tuned in results}
    first = next(iter(best.values()))
    fastest = min(best, key=lambda spec: best[spec].score(first))
    click.echo(
        f"Fastest type on this machine: {fastest}. To make it the default: edgeembed config set model {fastest}. To see how "
        "much quality a type loses: edgeembed verify NAME --types T,T. Do not mix vectors of different types in one index."
    )
