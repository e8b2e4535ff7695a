"""A model file that is written to while a daemon serves it, and what clients get.

    python -m tests.e2e.overwritten MODEL.gguf [--seconds 6] [--clients 4] [WRITE...]

For each way of writing it prints how many answers came, how many of them were the vectors of neither file or came from the
cache under the other file's digest, and how many requests failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.e2e.daemon import Daemon, cosines, running
from tests.e2e.texts import texts_of
from tests.overwriting import NO_MODEL, WRITES, make_other

SAME = 0.999
"""Least cosine of two rows of one text and one file: batches of other shapes round differently."""

LONGEST = 60.0
"""Seconds to wait for the new file's rows."""

Rows = Mapping[str, npt.NDArray[np.float32]]


@dataclass
class Outcome:
    """What clients got after the file was written to."""

    answers: int = 0
    of_old: int = 0
    of_new: int = 0
    wrong: int = 0
    """Rows of neither file."""
    failed: dict[str, int] = field(default_factory=dict)
    """Requests without an answer, by the error's code."""
    verdicts: list[str] = field(default_factory=list)
    """Of /health, one for each change."""
    texts: list[str] = field(default_factory=list)
    """That were answered."""
    wrong_later: dict[str, int] = field(default_factory=dict)
    """Wrong rows for the same texts from daemons that served each file afterwards, with the same cache."""

    def __str__(self) -> str:
        later = ", ".join(f"{wrong} of {len(self.texts)} with the {name} file" for name, wrong in self.wrong_later.items())
        return (
            f"{self.wrong} wrong of {self.answers} ({self.of_old} of the old file, {self.of_new} of the new one), "
            f"failed {self.failed or 0}; wrong out of the cache after a restart: {later}; "
            f"/health: {', '.join(self.verdicts)}"
        )


def rows_of(file: Path, texts: Sequence[str], home: Path) -> Rows:
    """Return the rows that a daemon of its own computes from a file."""
    with running("--model", str(file), "--no-cache", home=home) as daemon:
        return dict(zip(texts, daemon.embed(texts), strict=True))


def serve_and_write(
    write: Callable[[Path, Path], None],
    old: tuple[Path, Rows],
    new: tuple[Path, Rows] | None,
    folder: Path,
    *,
    source: Path,
    seconds: float = 6.0,
    clients: int = 4,
) -> Outcome:
    """Serve a copy of the old file, write to it, and count what clients get from then on.

    new: the file that results, and its rows; None where no model results.
    """
    home, served = folder / "home", folder / "served.gguf"
    home.mkdir(parents=True)
    shutil.copyfile(old[0], served)
    outcome = Outcome()
    with running("--model", str(served), home=home) as daemon:
        texts = list(old[1])
        daemon.embed(texts[:10])
        daemon.get("/health")
        write(source, served)
        _ask_for(daemon, texts[10:], seconds, clients, outcome, old[1], new[1] if new else {})
        daemon.stop()
    for name, file, rows in (("old", *old), *((("new", *new),) if new else ())):
        shutil.copyfile(file, served)
        with running("--model", str(served), home=home) as daemon:
            found = daemon.embed(outcome.texts) if outcome.texts else np.zeros((0, 1), np.float32)
            outcome.wrong_later[name] = sum(
                not _same(row, rows[text]) for text, row in zip(outcome.texts, found, strict=True)
            )
            daemon.stop()
    return outcome


def _ask_for(
    daemon: Daemon, texts: Sequence[str], seconds: float, clients: int, outcome: Outcome, old: Rows, new: Rows
) -> None:
    """Let clients ask for one text after the other, and another one for /health, until the new file's rows have come."""
    began, waiting, lock = time.monotonic(), itertools.cycle(texts), threading.Lock()

    def is_over() -> bool:
        past = time.monotonic() - began
        return past > LONGEST or (past > seconds and (not new or outcome.of_new > 2 * clients))

    def client(_number: int) -> None:
        while not is_over():
            with lock:
                text = next(waiting)
            try:
                row = daemon.embed(text)[0]
            except urllib.error.HTTPError as error:
                code = str(json.load(error)["error"]["code"])
                with lock:
                    outcome.failed[code] = outcome.failed.get(code, 0) + 1
                time.sleep(0.05)  # as a client that tries again
                continue
            with lock:
                outcome.answers += 1
                outcome.of_old += (is_old := _same(row, old[text]))
                outcome.of_new += (is_new := not is_old and text in new and _same(row, new[text]))
                outcome.wrong += not is_old and not is_new
                outcome.texts.append(text)

    def ask_health() -> None:
        while not is_over():
            status, answer = daemon.get("/health")
            verdict = "ok" if status == 200 else f"{status} {answer.get('reason')}"
            if not outcome.verdicts or outcome.verdicts[-1] != verdict:
                outcome.verdicts.append(verdict)
            time.sleep(0.2)  # as a monitor

    with ThreadPoolExecutor(clients + 1) as pool:
        for task in [pool.submit(ask_health), *(pool.submit(client, number) for number in range(clients))]:
            task.result()
    outcome.texts = list(dict.fromkeys(outcome.texts))


def _same(row: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    return bool(cosines(row[None], other[None])[0] > SAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("writes", nargs="*", default=list(WRITES), metavar="WRITE", help=", ".join(WRITES))
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--texts", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = texts_of(1, arguments.texts)
        old, other = arguments.model.absolute(), make_other(arguments.model, folder / "other.gguf")
        results: dict[bytes, tuple[Path, Rows]] = {}
        old_rows = rows_of(old, texts, folder / "home-old")
        for write in arguments.writes:
            result = folder / f"{write}.gguf"
            shutil.copyfile(old, result)
            WRITES[write](other, result)
            content = result.read_bytes()
            if write not in NO_MODEL and content not in results:
                without = folder / f"{write}-rows.gguf"
                without.write_bytes(content)
                results[content] = (without, rows_of(without, texts, folder / f"home-{write}"))
            outcome = serve_and_write(
                WRITES[write],
                (old, old_rows),
                results.get(content),
                folder / write,
                source=other,
                seconds=arguments.seconds,
                clients=arguments.clients,
            )
            print(f"{write}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
