"""Take the card away from a real daemon in real ways, under load, and print what became of the requests.

    python -m tests.benchmarks.gpu.fallback MODEL.gguf [--only killed frozen] [--json FILE]

- hidden: CUDA_VISIBLE_DEVICES is empty when it starts
- killed: the worker gets SIGKILL in the middle of work
- frozen: the worker gets SIGSTOP in the middle of work (the watchdog has to see it)
- taken: another process holds the card's memory when the model loads, and gives it back (the daemon must return to it)
- squeezed: another process takes the card's memory in the middle of work

Every answer is compared with the first one of the same text. Without a card, the cases that need one are named and skipped.
Exits with status 1 if a request failed or a vector differed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.benchmarks.gpu.missing import card, torch_problem
from tests.benchmarks.processes import ROOT
from tests.e2e.daemon import Daemon, running

CLIENTS = 8
LEAST_COSINE = 0.99
"""Rows of another mode differ a little, and more with quantised weights."""
PROMOTION_SECONDS = 150.0
"""Longer than the first cool-down of the fallback policy."""
NEEDS_CARD = ("taken", "squeezed")


@dataclass
class Outcome:
    """The outcome of one case."""

    name: str
    modes: list[str] = field(default_factory=list)
    """In which the model ran, in order."""
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    least_cosine: float = 1.0
    longest_seconds: float = 0.0
    """That one request took."""
    note: str = ""

    @property
    def well(self) -> bool:
        return self.requests > 0 and not self.failed and self.least_cosine >= LEAST_COSINE


class Load:
    """Clients in threads that send texts until they are told to stop."""

    def __init__(self, daemon: Daemon, outcome: Outcome) -> None:
        self._daemon, self._outcome = daemon, outcome
        self._texts = [TextMaker(7).text(words) for words in (10, 40, 120, 350) for _ in range(4)]
        self._first: dict[str, npt.NDArray[np.float32]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send while the context is open."""
        for text in self._texts:
            self._ask([text])
        threads = [threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(180)

    def _client(self, number: int) -> None:
        for turn in itertools.count():
            if self._over.is_set():
                return
            begin = (3 * number + turn) % len(self._texts)
            self._ask(self._texts[begin : begin + (1, 4)[turn % 2]])

    def _ask(self, texts: list[str]) -> None:
        began = time.monotonic()
        try:
            rows = self._daemon.embed(texts)
        except (OSError, urllib.error.URLError, AssertionError) as error:
            with self._lock:
                self._outcome.requests += 1
                self._outcome.failed.append(f"{type(error).__name__}: {error}")
            return
        with self._lock:
            self._outcome.requests += 1
            self._outcome.longest_seconds = max(self._outcome.longest_seconds, time.monotonic() - began)
            for text, row in zip(texts, rows, strict=True):
                first = self._first.setdefault(text, row)
                self._outcome.least_cosine = min(self._outcome.least_cosine, float(first @ row))


def watch(daemon: Daemon, outcome: Outcome, until: Callable[[str], bool], seconds: float) -> bool:
    """Record the model's modes until `until` accepts one; return whether it did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        health = daemon.get("/health")[1]
        mode = str(health.get("mode"))
        if mode != "None" and outcome.modes[-1:] != [mode]:
            outcome.modes.append(mode)
        if health.get("status") == "ok" and until(mode):
            return True
        time.sleep(0.2)
    return False


@contextlib.contextmanager
def hog(leave_mib: int) -> Iterator[str]:
    """Hold the card's memory while the context is open; yield what the process prints."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu.hog", "--leave-mib", str(leave_mib)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip() or "it ended"
    finally:
        process.kill()
        process.wait()


def demote(name: str, options: argparse.Namespace, home: Path) -> Outcome:
    """Run one case."""
    outcome = Outcome(name)
    flags = ("--model", str(options.model), "--no-cache", "--offline")
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "") + os.pathsep + str(ROOT)}
    with contextlib.ExitStack() as stack:
        if name == "hidden":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if name == "taken":
            flags = (*flags, "--gpu-memory-utilization", "1")  # a tenth of a large card would be more than what is left
        taken = contextlib.ExitStack()
        stack.enter_context(taken)
        if name == "taken":
            outcome.note = taken.enter_context(hog(options.leave_mib))
        daemon = stack.enter_context(running(*flags, home=home, **environment))
        watch(daemon, outcome, lambda _mode: True, 60)
        with Load(daemon, outcome).running():
            time.sleep(2)
            pid = daemon.worker_pid
            if name == "killed" and pid:
                os.kill(pid, signal.SIGKILL)
            elif name == "frozen" and pid:
                os.kill(pid, signal.SIGSTOP)
            elif name == "squeezed":
                outcome.note = taken.enter_context(hog(0))
            time.sleep(1)
            first = outcome.modes[0]
            if name == "taken":
                taken.close()
                outcome.note += ", then gave it back"
                watch(daemon, outcome, lambda mode: mode == "gpu-full", PROMOTION_SECONDS)
            elif name == "frozen":
                watch(daemon, outcome, lambda _mode: daemon.worker_pid not in (None, pid), PROMOTION_SECONDS)
            else:
                watch(daemon, outcome, lambda mode: mode == first or not options.promote, PROMOTION_SECONDS)
            time.sleep(2)
            watch(daemon, outcome, lambda _mode: True, 10)
    return outcome


CASES = ("hidden", "killed", "frozen", "taken", "squeezed")


def main() -> int:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda text: Path(text).resolve())
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--leave-mib", type=int, default=900, help="what `taken` leaves free: too little for the whole model"
    )
    parser.add_argument("--promote", action="store_true", help="wait until the first mode is reached again")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    here = card()
    print(
        f"card: {here.name}, driver {here.driver}" if here else "NO CARD: the demotions happen on the processor", flush=True
    )
    problem = torch_problem() if here else "no card"
    outcomes: list[Outcome] = []
    for name in options.only:
        if name in NEEDS_CARD and problem:
            print(f"not run: {name} ({problem})", flush=True)
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
            outcomes.append(demote(name, options, Path(work) / "home"))
        each = outcomes[-1]
        print(
            f"{name}: {' > '.join(each.modes)}; {each.requests} requests, {len(each.failed)} failed, least cosine "
            f"{each.least_cosine:.6f}, longest {each.longest_seconds:.1f} s{f'; {each.note}' if each.note else ''}",
            flush=True,
        )
        for reason in each.failed[:3]:
            print(f"  {reason}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    return 0 if all(each.well for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
