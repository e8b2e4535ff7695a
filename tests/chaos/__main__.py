"""Command line; see `tests.chaos`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import tests.chaos
from tests.chaos.faults import FAULTS
from tests.chaos.run import run


def main() -> int:
    """Run, print the report, and return 1 if a row was wrong, a request failed or a fault was not survived."""
    parser = argparse.ArgumentParser(description=tests.chaos.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--only", nargs="*", choices=list(FAULTS), metavar="FAULT", help=", ".join(FAULTS))
    options = parser.parse_args()
    report = asyncio.run(
        run(
            options.model.absolute(),
            seconds=60 * options.minutes,
            seed=options.seed,
            clients=options.clients,
            only=options.only,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    print(report)
    return 1 if report.counts.wrong or report.counts.failed or report.not_survived else 0


if __name__ == "__main__":
    sys.exit(main())
