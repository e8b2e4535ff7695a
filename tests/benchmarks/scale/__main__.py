"""A model of the large: how many machines a job or a service needs, what it costs, what fails, what becomes the limit.

    python -m tests.benchmarks.scale                                   # all tables of docs/scale.md
    python -m tests.benchmarks.scale --only answer,billion
    python -m tests.benchmarks.scale --docs docs                       # write them into scale.md
    python -m tests.benchmarks.scale --texts 2e8 --tokens 250 --model Qwen3-0.6B --machine l4 --workers 20 --price 0.9
    python -m tests.benchmarks.scale --set cpu_ms_100=6.1 --set spot_hour=0.05 --only answer

Every number that it starts from is in inputs.py with its source; `--set NAME=VALUE` changes one.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from edgeembed.bulk.fragments import FRAGMENT_ROWS
from tests.benchmarks.report import write_table
from tests.benchmarks.scale.failures import Job
from tests.benchmarks.scale.inputs import Inputs, with_values
from tests.benchmarks.scale.rates import MODELS
from tests.benchmarks.scale.tables import TABLES, own_job


def assignment(text: str) -> tuple[str, float]:
    """Return name and value of NAME=VALUE."""
    name, _, value = text.partition("=")
    return name, float(value)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--only", default=",".join(TABLES), help="names of tables, with commas")
    found.add_argument("--docs", type=Path, help="the folder of scale.md")
    found.add_argument("--set", type=assignment, action="append", default=[], metavar="NAME=VALUE", help="of an input")
    found.add_argument("--texts", type=float, help="describe one job of so many texts")
    found.add_argument("--workers", type=int, default=100)
    found.add_argument("--tokens", type=int, default=100, help="of a text")
    found.add_argument("--model", choices=[model.name for model in MODELS], default=MODELS[0].name)
    found.add_argument("--machine", choices=["cpu", "l4", "h100"], default="cpu", help="of a worker: 2 vCPUs, or a card")
    found.add_argument("--price", type=float, help="USD an hour of a worker, on demand")
    found.add_argument("--spot", action="store_true")
    found.add_argument("--fragment-rows", type=int, default=FRAGMENT_ROWS)
    return found


def main() -> None:
    """Print tables, or write them into the page."""
    command = parser()
    chosen = command.parse_args()
    try:
        given = with_values(Inputs(), dict(chosen.set))
    except ValueError as error:
        command.error(str(error))
    if chosen.price is not None:
        given = dataclasses.replace(given, **{f"price_{chosen.machine}": chosen.price})
    if chosen.texts is not None:
        model = next(model for model in MODELS if model.name == chosen.model)
        job = Job(model, chosen.tokens, chosen.texts, chosen.workers, chosen.machine, chosen.spot, chosen.fragment_rows)
        print("\n".join(own_job(given, job)))
        return
    names = [name.strip() for name in chosen.only.split(",")]
    if unknown := sorted(set(names) - TABLES.keys()):
        command.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    for name in names:
        lines = list(TABLES[name](given))
        print("\n".join([f"## {name}", "", *lines, ""]))
        if chosen.docs:
            write_table(chosen.docs / "scale.md", name, lines)


if __name__ == "__main__":
    main()
