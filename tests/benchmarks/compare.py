"""Compare our daemon with its peers: same weights, one machine, in alternating order.

    python -m tests.benchmarks.compare setup                        build and install the peers (see README.md)
    python -m tests.benchmarks.compare run --peers llama-server     print ratios with their spread, write JSON
    python -m tests.benchmarks.compare tune llama-server            which settings serve a peer best
    python -m tests.benchmarks.compare driver                       what the load driver costs

All peers of a run stay loaded. While one is measured the others are frozen (SIGSTOP), so that they take nothing. Every round
measures each of them once with the same texts, in alternating order: A B C, C B A, and so on. Ratios are taken within a
round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeembed.diagnostics.bench.machine import busy_share, machine_facts
from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.engine.machine import usable_threads
from tests.benchmarks.checks import driver_cost, gaps, tuning
from tests.benchmarks.peers import PEERS, Edgeembed, Ours, Peer
from tests.benchmarks.place import Place, Weights
from tests.benchmarks.processes import Loop, Server
from tests.benchmarks.report import Comparison, cosines, table_of_settings
from tests.benchmarks.scenarios import SCENARIOS, Scenario
from tests.benchmarks.stages import under_load
from tests.benchmarks.weights import make_weights, weights_of

F = TypeVar("F", bound=Callable[..., Any])
OURS = Edgeembed.name
BUSY = 0.1
DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "edgeembed-peers"


@click.group()
def cli() -> None:
    """Compare our daemon with its peers."""
    # So that the peers end, too, when this process is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def common(function: F) -> F:
    """Add the options that every command has."""
    for option in (
        click.option("--folder", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True),
        click.option("--threads", type=int, default=usable_threads(), show_default=True, help="For every peer."),
        click.option("--model", type=click.Choice(["minilm", "qwen3", "bert12"]), default="minilm", show_default=True),
    ):
        function = option(function)
    return function


@cli.command()
@common
@click.option("--peers", default=",".join(PEERS), help="Names, separated by commas.  [default: all]")
@click.option("--torch", default="torch", show_default=True, help="What pip shall install as torch, such as a CPU build.")
def setup(folder: Path, threads: int, model: Any, peers: str, torch: str) -> None:
    """Make the weights, and build or install the peers, each in a folder of its own; skip what is there already."""
    place = Place(folder.absolute(), threads, torch)
    weights = make_weights(place.folder, model)
    failed = []
    for peer in _chosen(peers, weights):
        began = time.monotonic()
        try:
            peer.setup(place, weights)
            click.echo(f"{peer.name}: there, after {time.monotonic() - began:.0f} s")
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            failed.append(peer.name)
            click.echo(f"{peer.name}: cannot be had: {error}")
    sys.exit(1 if failed else 0)


@cli.command()
@common
@click.option("--peers", help="Names, separated by commas.  [default: all that are there]")
@click.option("--scenarios", help="Names, separated by commas.  [default: all of the model]")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Of one measurement; some take a multiple.")
@click.option("--seed", type=int, default=None, help="Of the texts.  [default: another one each time]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything there.")
@click.option("--tree", type=click.Path(path_type=Path), help="Run our daemon from this source tree.")
@click.option(
    "--home", type=click.Path(path_type=Path), help="EDGEEMBED_HOME of our daemon, such as one with a tuned profile."
)
@click.option("--our-gguf", type=click.Path(path_type=Path), help="Another type of the same model, for our daemon alone.")
@click.option("--our-flags", default="", help="Flags of `edgeembed serve`.")
def run(
    folder: Path,
    threads: int,
    model: Any,
    peers: str | None,
    scenarios: str | None,
    rounds: int,
    seconds: float,
    seed: int | None,
    json_file: Path | None,
    tree: Path | None,
    home: Path | None,
    our_gguf: Path | None,
    our_flags: str,
) -> None:
    """Measure, and print our figures, the peers' and the ratios: the median over the rounds, the least and the most."""
    place = Place(folder.absolute(), threads)
    weights = weights_of(place.folder, model)
    for path in (weights.gguf, weights.checkpoint):
        if not path.exists():
            raise click.ClickException(f"{path} is missing; `compare setup --model {model}` makes it")
    ours = Edgeembed(
        our_flags.split(), **({"tree": tree.absolute()} if tree else {}), home=home.absolute() if home else None
    )
    taking_part = [ours, *(peer for peer in _present(peers, place, weights) if peer.name != OURS)]
    wanted = [each for each in _scenarios(scenarios) if model in each.models]
    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    phases = sum(len(each.phases) * (each.seconds_factor * seconds + 1.5) for each in wanted)
    busy, taken = busy_share(), gaps()
    click.echo(f"{json.dumps(machine_facts())}\nthreads {threads}, seed {seed}, {rounds} rounds of {seconds:g} s")
    if busy > BUSY:
        click.echo(f"OTHER PROGRAMS TAKE {busy:.0%} OF THE PROCESSORS' TIME: THE FIGURES ARE WORTH LITTLE")
    click.echo(
        f"taken from processes that only spin: {taken.share:.1%} of the time, up to {taken.longest_ms:.0f} ms at once"
    )
    click.echo("\n".join(table_of_settings({peer.name: peer.settings(weights) for peer in taking_part})))
    click.echo(f"about {phases * rounds * len(taking_part) / 60:.0f} min, and the starts\n")
    own_weights = dataclasses.replace(weights, gguf=our_gguf.absolute()) if our_gguf else weights
    with _running(taking_part, place, weights, own_weights) as running:
        agreement = _agreement(running)
        click.echo("\n".join(f"  {peer:<22} least cosine to ours {value:.5f}" for peer, value in agreement.items()) + "\n")
        found = []
        for scenario in wanted:
            found.append(_compare(scenario, running, rounds, seconds, seed))
            click.echo("\n".join(found[-1].lines(OURS)) + "\n")
        memory = {name: each.resident_bytes for name, each in running.items()}
    click.echo("\n".join(f"  {name:<22} {size / 2**20:,.0f} MiB resident at the end" for name, size in memory.items()))
    if json_file:
        result = {
            "machine": machine_facts(),
            "busy_before": busy,
            "taken_share": taken.share,
            "taken_longest_ms": taken.longest_ms,
            "threads": threads,
            "seed": seed,
            "rounds": rounds,
            "seconds": seconds,
            "model": {"name": model, "gguf": weights.gguf.resolve().name, "our_gguf": own_weights.gguf.resolve().name},
            "settings": {peer.name: {"about": peer.about, "flags": peer.settings(weights)} for peer in taking_part},
            "least_cosine_to_ours": agreement,
            "resident_bytes": memory,
            "scenarios": [each.to_json(OURS) for each in found],
        }
        json_file.write_text(json.dumps(result, indent=1))


@cli.command()
@common
@click.argument("peer", type=click.Choice(sorted(PEERS)))
@click.option("--seconds", type=float, default=3.0, show_default=True)
def tune(folder: Path, threads: int, model: Any, peer: str, seconds: float) -> None:
    """Start PEER with one set of settings after the other, and print what each gives."""
    place = Place(folder.absolute(), threads)
    for line in tuning(peer, place, weights_of(place.folder, model), seconds):
        click.echo(line)


@cli.command()
@common
@click.option("--seconds", type=float, default=3.0, show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
def driver(folder: Path, threads: int, model: Any, seconds: float, rounds: int) -> None:
    """Print what the load driver costs, against aiohttp's client and against a driver held on one processor."""
    place = Place(folder.absolute(), threads)
    for line in driver_cost(place, weights_of(place.folder, model), seconds, rounds):
        click.echo(line)


def _chosen(names: str, weights: Weights) -> list[Peer]:
    chosen = []
    for name in filter(None, (word.strip() for word in names.split(","))):
        if name not in PEERS:
            raise click.ClickException(f"no peer {name!r}; there is: {', '.join(PEERS)}")
        if weights.name in PEERS[name].models:
            chosen.append(PEERS[name]())
    return chosen


def _present(names: str | None, place: Place, weights: Weights) -> list[Peer]:
    """Return the peers that can run here; print why the others cannot."""
    present = []
    for peer in _chosen(names or ",".join(PEERS), weights):
        if reason := peer.missing(place):
            click.echo(f"without {peer.name}: {reason}")
        else:
            present.append(peer)
    return present


def _scenarios(names: str | None) -> list[Scenario]:
    if names is None:
        return list(SCENARIOS.values())
    unknown = [name for name in names.split(",") if name not in SCENARIOS]
    if unknown:
        raise click.ClickException(f"no scenario {unknown[0]!r}; there is: {', '.join(SCENARIOS)}")
    return [SCENARIOS[name] for name in names.split(",")]


@contextlib.contextmanager
def _running(
    peers: Sequence[Peer], place: Place, weights: Weights, own_weights: Weights
) -> Iterator[dict[str, Server | Loop]]:
    """Run all peers, frozen; one that does not start is left out, and its reason printed."""
    running: dict[str, Server | Loop] = {}
    try:
        for peer in peers:
            one = running[peer.name] = peer.start(place, own_weights if isinstance(peer, Ours) else weights)
            try:
                one.wait()
            except RuntimeError as error:
                if peer.name == OURS:
                    raise click.ClickException(str(error)) from error
                click.echo(f"without {error}")
                running.pop(peer.name).end()
                continue
            one.freeze()
        yield running
    finally:
        for one in running.values():
            one.end()


def _agreement(running: dict[str, Server | Loop]) -> dict[str, float]:
    """Return each peer's least cosine to our rows over a few texts: the same weights must give the same vectors."""
    texts = [TextMaker(3).text(words) for words in (5, 10, 40, 100)]
    rows = {}
    for name, one in running.items():
        one.thaw()
        rows[name] = one.embed(texts)
        one.freeze()
    return {name: min(cosines(rows[OURS], theirs)) for name, theirs in rows.items() if name != OURS}


def _compare(scenario: Scenario, running: dict[str, Server | Loop], rounds: int, seconds: float, seed: int) -> Comparison:
    comparison = Comparison(scenario)
    taking_part = {name: one for name, one in running.items() if scenario.loops or not PEERS[name].loop}
    for number in range(rounds):
        for name in list(taking_part)[:: 1 if number % 2 == 0 else -1]:
            one = taking_part[name]
            try:
                phases, share = under_load(one, scenario, seconds, seed + 104_729 * number)
                comparison.add(number, name, phases, share)
            except RuntimeError as error:
                comparison.failures[name] = str(error)
                del taking_part[name]
    return comparison


if __name__ == "__main__":
    cli()
