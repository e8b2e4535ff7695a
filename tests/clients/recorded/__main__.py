"""Command line; see `tests.clients.recorded`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import tests.clients.recorded
from tests.clients.recorded.programs import programs
from tests.published.run import DIFFERS, FAILS, HOLDS, Result, daemons, run_case, summary

_WORDS = {HOLDS: "works", FAILS: "fails", DIFFERS: "does not work, as the docs say"}


def main() -> int:
    """Run, print a line for each request and the answers of those that fail, and return 1 if there are any."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=tests.clients.recorded.__doc__, formatter_class=formatter)
    parser.add_argument("--model", type=Path, required=True, help="all-MiniLM-L6-v2 as a GGUF file")
    parser.add_argument("--program", nargs="*", choices=[program.name for program in programs()], help="only these")
    parser.add_argument("--tree", type=Path, help="a checkout whose daemon is tested; default: this one")
    parser.add_argument("--all", action="store_true", help="print the answers of all requests")
    options = parser.parse_args()
    chosen = [program for program in programs() if not options.program or program.name in options.program]
    results: dict[str, list[Result]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        daemons(Path(folder) / "homes", options.model.absolute(), options.tree and options.tree.absolute(), [False]) as urls,
    ):
        for program in chosen:
            results[program.name] = [run_case(urls, case) for case in program.cases]
    found = [(name, result) for name, each in results.items() for result in each]
    for name, result in found:
        print(f"{name} | {result.case.test} | {_WORDS[result.verdict]}")
    for name, result in found:
        if options.all or result.verdict == FAILS:
            print(f"\n## {name}\n\n{summary(result)}")
    verdicts = [result.verdict for _, result in found]
    print(f"\n{len(found)} requests: " + ", ".join(f"{verdicts.count(key)} {word}" for key, word in _WORDS.items()))
    return int(FAILS in verdicts)


if __name__ == "__main__":
    sys.exit(main())
