"""Command line; see `tests.published`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import tests.published
from tests.published.peers import PEERS
from tests.published.run import FAILS, HOLDS, daemons, run, summary, table


def main() -> int:
    """Run, print the table and the cases that fail, and return 1 if there are any."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=tests.published.__doc__, formatter_class=formatter)
    parser.add_argument("--model", type=Path, required=True, help="all-MiniLM-L6-v2 as a GGUF file")
    parser.add_argument("--peer", nargs="*", choices=[peer.name for peer in PEERS], help="only these peers")
    parser.add_argument("--tree", type=Path, help="a checkout whose daemon is tested; default: this one")
    parser.add_argument("--all", action="store_true", help="print every case, and what does not apply")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if not options.peer or peer.name in options.peer]
    with (
        tempfile.TemporaryDirectory() as folder,
        daemons(Path(folder) / "homes", options.model.absolute(), options.tree and options.tree.absolute()) as urls,
    ):
        results = run(urls, peers)
    print(table(results, peers))
    for peer in peers:
        shown = [result for result in results[peer.name] if options.all or result.verdict == FAILS]
        if shown:
            print(f"\n## {peer.name} ({peer.repository})\n")
        for result in shown:
            print(f"holds: {result.case.test}" if result.verdict == HOLDS else summary(result))
        if options.all:
            for left in peer.left_out:
                print(f"left out: {left.count} of {left.file}: {left.why}")
            print(f"not retold: {peer.other_files}")
    return int(any(result.verdict == FAILS for found in results.values() for result in found))


if __name__ == "__main__":
    sys.exit(main())
