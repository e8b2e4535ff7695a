"""`edgeembed tune`."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import click

from edgeembed.cli.completion import complete_model
from edgeembed.cli.printing import print_json, print_table
from edgeembed.cli.settings import setting_options

if TYPE_CHECKING:
    from edgeembed.config.resolution import Resolved
    from edgeembed.hub.store import InstalledModel
    from edgeembed.models.profiles import Measurement, TuningResult

TITLES = ("TYPE", "THREADS", "LANES", "BATCH TOKENS", "FILL UP FROM", "10 WORDS", "40 WORDS", "BULK")


@click.command()
@click.argument("spec", metavar="[MODEL]", required=False, shell_complete=complete_model)
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(min=0.2), help="Of measuring each way.")
@click.option("--quick", is_flag=True, help="Try numbers of threads only.")
@click.option("--forget", is_flag=True, help="Forget what was found, and measure nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@setting_options("threads", "context_tokens", "offline")
def tune(spec: str | None, seconds: float, quick: bool, forget: bool, as_json: bool, **flags: str | None) -> None:
    """Find out how MODEL, or the configured one, runs fastest on this machine, and remember it.

    Tries numbers of threads, lanes for bulk loads, sizes of batches, and from which length on short texts are filled up for
    the faster attention; on a graphics card sizes of batches alone. `edgeembed serve` uses what was found, for this machine,
    this build of llama.cpp and this file; `threads` and `batch_tokens` in the settings go before it. Of a model with several
    installed types each is measured.

    \b
    edgeembed tune                          the configured model, about a minute with a small one
    edgeembed tune all-minilm-l6-v2         every installed type of it
    edgeembed tune all-minilm-l6-v2:Q8_0 --seconds 10

    A daemon that runs meanwhile would be measured along with it: stop it first, or at least leave it alone.
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
            click.echo(f"{model.spec}: {'forgotten' if found else 'nothing was known'}")
        return
    results: list[tuple[InstalledModel, TuningResult]] = []
    for model in models:
        click.echo(f"{model.spec}: measuring; nothing else should run meanwhile", err=True)
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
        click.echo(f"{model.spec}: the way marked * is {tuned.gain:.2f} times as fast as the first one; it is remembered")
    if len(results) > 1:
        _advise(results)


def _models(resolved: Resolved, name: str) -> list[InstalledModel]:
    """Give the models to measure: one, or every installed type of a bare name."""
    from edgeembed.hub.install import ensure_installed
    from edgeembed.hub.store import Store

    several = [model for model in Store(resolved.paths).installed() if model.name == name]
    if len(several) > 1:
        return several
    say = functools.partial(click.echo, err=True)
    return [ensure_installed(name, paths=resolved.paths, settings=resolved.settings, report=say)]


def _tune(resolved: Resolved, model: InstalledModel, seconds: float, *, quick: bool) -> TuningResult:
    from edgeembed.diagnostics.tune import measurer, tune
    from edgeembed.engine.machine import usable_threads
    from edgeembed.models.profiles import RunProfile
    from edgeembed.runtime.engines import make_engine

    def tell(measurement: Measurement) -> None:
        profile = measurement.profile
        lanes = "auto" if profile.bulk_lanes is None else profile.bulk_lanes
        fill = "auto" if profile.pad_from_tokens is None else profile.pad_from_tokens
        click.echo(
            f"  {profile.threads} threads, {lanes} lanes, batches of {_batch(measurement)}, fill up from {fill}: "
            f"{measurement.query_ms:.1f} ms, {measurement.sentence_ms:.1f} ms, "
            f"{measurement.tokens_per_second:,.0f} tokens/s",
            err=True,
        )

    start = RunProfile(threads=resolved.settings.threads or usable_threads())
    make = functools.partial(make_engine, resolved.settings, resolved.paths, model)
    return asyncio.run(tune(measurer(lambda profile: make(profile), seconds), start, thorough=not quick, tell=tell))


def _batch(measurement: Measurement) -> str:
    """Give the tokens of a batch, on what was measured."""
    if measurement.on_card:
        return f"{measurement.profile.card_batch_tokens or 'auto'} (card)"
    return str(measurement.profile.batch_tokens)


def _row(type_: str, measurement: Measurement, best: bool) -> tuple[str, ...]:
    profile = measurement.profile

    def choice(value: int | None) -> str:
        return "auto" if value is None else str(value)

    return (
        f"{type_}{' *' if best else ''}",
        str(profile.threads),
        choice(profile.bulk_lanes),
        _batch(measurement),
        "never" if profile.pad_from_tokens == 0 else choice(profile.pad_from_tokens),
        f"{measurement.query_ms:.2f} ms",
        f"{measurement.sentence_ms:.2f} ms",
        f"{measurement.tokens_per_second:,.0f} tokens/s",
    )


def _advise(results: list[tuple[Any, TuningResult]]) -> None:
    """Say which type is fastest; which one is good enough is the user's to say."""
    best = {model.spec: next(each for each in tuned.measured if each.profile == tuned.profile) for model, tuned in results}
    first = next(iter(best.values()))
    fastest = min(best, key=lambda spec: best[spec].score(first))
    click.echo(
        f"Fastest type here: {fastest}. `edgeembed config set model {fastest}` makes it the default; what a type costs in "
        "quality: edgeembed verify NAME --types …. Vectors of two types do not mix in one index."
    )
