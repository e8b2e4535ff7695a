#!/usr/bin/env python3
"""Run real daemons behind a real HAProxy and a real nginx, configured as in this folder, and print measurements.

    python installers/several/check.py MODEL.gguf          with a Python that has edgeembed installed

It answers two questions, each with a table. What is the benefit of sending equal texts to the same box: the share of
requests answered from caches, compared with round robin. And what happens if a box is killed (kill -9, daemon and worker)
under load and restarted: failed requests, and texts that moved. Needs haproxy and nginx (Debian: `apt install haproxy
nginx-light`). Exits with status 0 if no request failed, all vectors were correct, equal texts went to one box and, while
a box was down, no text of the others moved.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt
from boxes import RETURN_SECONDS, Box, answering, balancer, free_ports

from edgeembed.diagnostics.bench.texts import TextMaker

KINDS = ("haproxy", "nginx")
SAME = 0.999
"""Lowest cosine between two vectors of a text: results differ slightly with the other texts in a batch."""


@dataclass
class Outcome:
    """The outcome of a request: its text (None for one that is sent once), and the box that answered (None: it failed)."""

    text: int | None
    box: str | None
    at: float
    seconds: float
    hit: bool = False
    reason: str = ""


@dataclass
class Load:
    """Clients that send texts through the balancer. Every second request asks for base64 with reordered fields."""

    session: aiohttp.ClientSession
    url: str
    names: dict[str, str]
    """The balancer's name of a box -> our name."""
    answers: list[Outcome] = field(default_factory=list)
    rows: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    least_cosine: float = 1.0

    async def send(self, text: str, number: int | None, other: bool) -> None:
        """Send one text and record the outcome."""
        body = json.dumps({"input": text} if not other else {"encoding_format": "base64", "input": text})
        began = time.monotonic()
        try:
            async with self.session.post(
                f"{self.url}/v1/embeddings", data=body.encode(), headers={"content-type": "application/json"}
            ) as response:
                raw = await response.read()
                if response.status != 200:
                    raise aiohttp.ClientError(f"{response.status} {raw[:120]!r}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.answers.append(
                Outcome(number, None, began, time.monotonic() - began, reason=f"{type(error).__name__}: {error}")
            )
            return
        box = self.names[response.headers["x-edgeembed-box"].rpartition(", ")[2]]
        hit = response.headers["x-edgeembed-cache"] == "hit"
        self.answers.append(Outcome(number, box, began, time.monotonic() - began, hit))
        self._compare(number, json.loads(raw)["data"][0]["embedding"])

    def _compare(self, number: int | None, embedding: str | list[float]) -> None:
        if number is None:
            return
        decoded = (
            np.frombuffer(base64.b64decode(embedding), "<f4") if isinstance(embedding, str) else np.array(embedding, "<f4")
        )
        first = self.rows.setdefault(number, decoded)
        self.least_cosine = min(self.least_cosine, float(first @ decoded))

    async def run(self, texts: AsyncIterator[tuple[str, int | None]], clients: int) -> None:
        """Send all texts, with so many concurrent clients."""
        other = itertools.cycle((False, True))

        async def client() -> None:
            async for text, number in texts:
                await self.send(text, number, next(other))

        await asyncio.gather(*(client() for _ in range(clients)))

    @property
    def failed(self) -> list[Outcome]:
        return [each for each in self.answers if each.box is None]

    def homes(self, since: float = 0.0, until: float = float("inf")) -> dict[int, set[str]]:
        """Return the boxes that answered each repeated text in a period of time."""
        found: dict[int, set[str]] = collections.defaultdict(set)
        for each in self.answers:
            if each.text is not None and each.box is not None and since <= each.at < until:
                found[each.text].add(each.box)
        return found


class Shared:
    """An iterator that several clients draw from."""

    def __init__(self, source: Iterator[tuple[str, int | None]]) -> None:
        self._source = source

    def __aiter__(self) -> Shared:
        return self

    async def __anext__(self) -> tuple[str, int | None]:
        for each in self._source:
            return each
        raise StopAsyncIteration


@dataclass
class CheckRun:
    """The parameters of the check."""

    boxes: list[Box]
    session: aiohttp.ClientSession
    options: argparse.Namespace
    work: Path
    programs: dict[str, str]

    def load(self, url: str) -> Load:
        """Return a load for the balancer at a URL."""
        names = {box.name: box.name for box in self.boxes} | {f"127.0.0.1:{box.port}": box.name for box in self.boxes}
        return Load(self.session, url, names)


async def hit_rates(run: CheckRun, kind: str, hashed: bool) -> tuple[list[str], Load, bool]:
    """Send each text several times in random order.

    Return a row of the table (the share of cache hits, in total and by box), the load, and whether each text had one box.
    """
    options = run.options
    texts = TextMaker(f"{kind} {hashed}".__hash__()).texts(options.texts, 12)  # new texts, which are in no cache yet
    order = [number for number in range(options.texts) for _ in range(options.repeats)]
    random.Random(1).shuffle(order)
    with balancer(kind, hashed, run.boxes, run.work, run.programs) as url:
        await answering(run.session, url)
        load = run.load(url)
        await load.run(Shared((texts[number], number) for number in order), options.clients)
    done = [each for each in load.answers if each.box is not None]
    cells = [f"{kind}, {'by text' if hashed else 'round robin'}", str(len(load.answers)), str(len(load.failed))]
    kept = sum(len(boxes) for boxes in load.homes().values())
    cells += [f"{sum(each.hit for each in done) / max(1, len(done)):.1%}", str(kept)]
    for box in run.boxes:
        own = [each for each in done if each.box == box.name]
        cells.append(f"{len(own)} / {sum(each.hit for each in own) / max(1, len(own)):.0%}")
    return [*cells, f"{load.least_cosine:.6f}"], load, kept == options.texts


def mixed_texts(maker: TextMaker, texts: Sequence[str], over: asyncio.Event) -> Iterator[tuple[str, int | None]]:
    """Yield repeated texts with their numbers, and new ones, until `over` is set."""
    chance = random.Random(2)
    while not over.is_set():
        # A third of the texts is new, so that boxes are computing when they are killed.
        if chance.random() < 1 / 3:
            yield maker.text(30), None
        else:
            number = chance.randrange(len(texts))
            yield texts[number], number


async def kill_one(run: CheckRun, kind: str) -> tuple[list[str], Load, bool]:
    """Kill a box under load and restart it; return a row, the load, and whether no text of another box moved."""
    options, victim = run.options, run.boxes[1]
    maker = TextMaker(hash(kind))
    texts = maker.texts(options.texts, 12)
    over = asyncio.Event()
    with balancer(kind, True, run.boxes, run.work, run.programs) as url:
        await answering(run.session, url)
        load = run.load(url)
        await load.run(Shared((text, number) for number, text in enumerate(texts)), options.clients)
        before = load.homes()
        running = asyncio.create_task(load.run(Shared(mixed_texts(maker, texts, over)), options.clients))
        await asyncio.sleep(options.seconds)
        killed = time.monotonic()
        victim.kill()
        await asyncio.sleep(options.seconds)
        # Its texts move as soon as the balancer notices; requests in the first two seconds may be from before.
        during = load.homes(since=killed + 2)
        restarted = time.monotonic()
        victim.start()
        await victim.ready(run.session)
        await asyncio.sleep(RETURN_SECONDS + 4)
        settled = time.monotonic()
        await asyncio.sleep(options.seconds)
        over.set()
        await running
    after = load.homes(since=settled)
    others = [text for text, boxes in before.items() if victim.name not in boxes and text in during]
    moved = sum(during[text] != before[text] for text in others)
    own = [text for text, boxes in before.items() if victim.name in boxes]
    spread = collections.Counter(box for text in own for box in during.get(text, ()))
    back = sum(after[text] == before[text] for text in after)
    gone = [each for each in load.answers if killed <= each.at < restarted and each.box is not None]
    repeated = [each for each in gone if each.text is not None]
    row = [
        kind,
        str(len(load.answers)),
        str(len(load.failed)),
        f"{len(own)} of {len(before)}",
        f"{moved} of {len(others)}",
        " + ".join(f"{number} {name}" for name, number in sorted(spread.items())),
        f"{sum(each.hit for each in repeated) / max(1, len(repeated)):.0%}",
        f"{back} of {len(after)}",
        f"{1000 * max(each.seconds for each in gone):.0f} ms",
        f"{load.least_cosine:.6f}",
    ]
    return row, load, moved == 0


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


async def check(options: argparse.Namespace, work: Path, programs: dict[str, str]) -> bool:
    """Run all checks; return whether they passed."""
    ports = free_ports(options.boxes)
    model = options.model.resolve()
    boxes = [Box(number + 1, port, model, work, options.threads) for number, port in enumerate(ports)]
    timeout = aiohttp.ClientTimeout(total=60)
    loads: list[Load] = []
    ok = True
    try:
        for box in boxes:
            box.start()
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            for box in boxes:
                await box.ready(session)
            run = CheckRun(boxes, session, options, work, programs)
            rows = []
            for kind, hashed in itertools.product(programs, (True, False)):
                row, load, one_each = await hit_rates(run, kind, hashed)
                rows.append(row)
                loads.append(load)
                ok = ok and (one_each or not hashed)
            titles = ["balancer", "requests", "failed", "from a cache", "rows kept"]
            titles += [f"{box.name}: requests / hits" for box in boxes]
            sys.stdout.write(f"{options.texts} texts, each {options.repeats} times, {options.clients} clients\n\n")
            sys.stdout.write(table([*titles, "lowest cosine"], rows) + "\n")
            rows = []
            for kind in programs:
                row, load, none_moved = await kill_one(run, kind)
                rows.append(row)
                loads.append(load)
                ok = ok and none_moved
    finally:
        for box in boxes:
            box.kill()
    titles = ["killed under load", "requests", "failed", "its texts", "texts of others that moved", "new boxes of its texts"]
    titles += ["from a cache while down", "back after restart", "slowest while down", "lowest cosine"]
    sys.stdout.write(table(titles, rows) + "\n")
    for each in [each for load in loads for each in load.failed][:5]:
        sys.stdout.write(f"failed after {each.seconds:.2f} s: {each.reason}\n")
    return ok and all(not load.failed and load.least_cosine >= SAME for load in loads)


def main() -> int:
    """Parse the command line and run the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--boxes", type=int, default=3, choices=(2, 3))
    parser.add_argument("--balancers", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--texts", type=int, default=200, help="different texts")
    parser.add_argument("--repeats", type=int, default=5, help="how often each text is sent")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="threads per box")
    parser.add_argument(
        "--seconds",
        type=float,
        default=6.0,
        help="seconds of load before the kill, while the box is down, and after its restart",
    )
    options = parser.parse_args()
    paths = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"  # where Debian installs them
    found = {kind: shutil.which(kind, path=paths) for kind in options.balancers}
    if missing := [kind for kind, path in found.items() if path is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        well = asyncio.run(check(options, Path(work), {kind: path for kind, path in found.items() if path}))
    sys.stdout.write("all checks passed\n" if well else "some checks FAILED\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
