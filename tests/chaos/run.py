"""A run: daemons, clients, one fault after the other, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from edgeembed.hub.digests import sha256_of
from tests.chaos.clients import Client, Counts, Expected, Rows
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.servers import Clock, Disk, Server
from tests.e2e.overwritten import rows_of
from tests.e2e.texts import WORDS
from tests.fake_upstreams import FakeUpstream
from tests.overwriting import make_other

TEXTS = 1500
RECOVERY_SECONDS = 90.0
"""After so long without a right answer, a fault was not survived."""
NAME = "far-model"


@dataclass
class Report:
    """What a run showed."""

    seed: int
    seconds: float
    counts: Counts
    survived: Counter[str] = field(default_factory=Counter)
    not_survived: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Faults that this machine cannot make, with the reason."""

    def __str__(self) -> str:
        counts = self.counts
        faults = sum(self.survived.values())
        lines = [
            f"faults survived: {faults} of {faults + len(self.not_survived)}, answers: {counts.answers:,} "
            f"({counts.rows:,} rows), wrong: {counts.wrong}, failed: {sum(counts.failed.values())}, "
            f"wrong before a lie was seen: {counts.unseen}, "
            f"p99: {counts.p99():.2f} s (seed {self.seed}, {self.seconds:.0f} s)",
            "survived: " + ", ".join(f"{name} {count}" for name, count in sorted(self.survived.items())),
            "tried again after: "
            + (", ".join(f"{why} {count}" for why, count in counts.repeated.most_common()) or "nothing"),
        ]
        lines += [f"not survived: {name}" for name in self.not_survived]
        lines += [f"failed: {why} {count}" for why, count in counts.failed.items()]
        lines += [f"wrong: {example}" for example in counts.examples]
        lines += [f"left out: {name}, as {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


def texts(seed: int) -> list[str]:
    """Return different texts of 3 to 60 words."""
    draw = random.Random(seed)
    return [f"{number} " + " ".join(draw.choices(WORDS, k=draw.randint(3, 60))) for number in range(TEXTS)]


async def run(
    model: Path,
    *,
    seconds: float,
    seed: int,
    clients: int,
    only: list[str] | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Run faults under load and return the report. only: the names of the faults; None for all that can be made here."""
    report = Report(seed, seconds, Counts())
    async with _scene(model, seed, report, say) as scene:
        names = [name for name in only or FAULTS if name not in report.left_out]
        over = asyncio.Event()
        asking = [
            Client(scene.session, server.url, expected, report.counts, f"{seed} {number}").run(over)
            for number, (server, expected) in enumerate(
                itertools.islice(
                    itertools.cycle([*[(scene.local, scene.expected)] * 3, (scene.caching, scene.far_expected)]), clients
                )
            )
        ]
        running = asyncio.gather(*asking)
        probes = [
            Client(scene.session, scene.local.url, scene.expected, report.counts, "probe"),
            Client(scene.session, scene.caching.url, scene.far_expected, report.counts, "probe"),
        ]
        end = time.monotonic() + seconds
        order: list[str] = []
        while time.monotonic() < end:
            order = order or scene.draw.sample(names, len(names))
            await _one_fault(order.pop(), scene, probes, report, say)
            await scene.some_seconds(0.5, 3.0)
        over.set()
        await running
    return report


async def _one_fault(name: str, scene: Scene, probes: list[Client], report: Report, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    texts = scene.draw.sample(sorted(scene.rows[0]), 4)
    try:
        await FAULTS[name](scene)
        mended = time.monotonic()
        right = [await asyncio.wait_for(probe.ask(texts, cached=0), RECOVERY_SECONDS) for probe in probes]
        assert all(right), "the answers afterwards were wrong, or none"
    except (AssertionError, TimeoutError, aiohttp.ClientError, OSError) as error:
        report.not_survived.append(f"{name}: {error or type(error).__name__}")
        say(f"{name}: NOT survived: {error!r}")
        return
    report.survived[name] += 1
    counts = report.counts
    say(
        f"{name}: {mended - began:.1f} s, right answers {time.monotonic() - mended:.2f} s later; {counts.answers:,} answers"
        f", {counts.wrong} wrong, {sum(counts.failed.values())} failed"
    )


@contextlib.asynccontextmanager
async def _scene(model: Path, seed: int, report: Report, say: Callable[[str], None]) -> AsyncIterator[Scene]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        served, other_file = folder / "served.gguf", make_other(model, folder / "other.gguf")
        shutil.copyfile(model, served)
        say("computing the references")
        asked = texts(seed)
        rows = rows_of(model, asked, folder / "reference")
        other_rows = rows_of(other_file, asked, folder / "other-reference")
        disk = _disk(folder, report, stack)
        clock = _clock(folder, report)
        environment = clock.environment if clock else {}
        upstream = _upstream(rows)
        await upstream.start()
        homes = disk.folder if disk else folder / "homes"
        local = Server("local", homes / "local", ["--model", str(served)], environment)
        caching = Server(
            "caching",
            homes / "caching",
            ["--upstream", upstream.url, "--model", NAME, "--cache-disk-mib", "16"],
            environment,
        )
        stack.callback(local.kill)
        stack.callback(caching.kill)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            say("starting the daemons")
            await local.start(session)
            await caching.start(session)
            scene = Scene(
                local=local,
                caching=caching,
                other=upstream,
                disk=disk,
                clock=clock,
                served=served,
                files=(model, other_file),
                rows=(rows, other_rows),
                digest=sha256_of(model),
                expected=Expected([rows], {sha256_of(model): rows, sha256_of(other_file): other_rows}),
                far_expected=Expected([rows]),
                session=session,
                draw=random.Random(seed),
            )
            yield scene
        await upstream.stop()


def _disk(folder: Path, report: Report, stack: contextlib.ExitStack) -> Disk | None:
    (folder / "disk").mkdir()
    try:
        disk = Disk(folder / "disk")
    except (OSError, subprocess.CalledProcessError):
        report.left_out["disk_full"] = "only root on Linux may mount a small disk"
        return None
    stack.callback(disk.close)
    return disk


def _clock(folder: Path, report: Report) -> Clock | None:
    if shutil.which("cc") is None:
        report.left_out["clock_moved"] = "there is no C compiler"
        return None
    return Clock(folder)


def _upstream(rows: Rows) -> FakeUpstream:
    """Return a server that has the model's rows, and makes up those of other texts, such as sentinel texts."""
    server = FakeUpstream(model=NAME)
    made_up = server.row_of

    def row_of(text: str) -> np.ndarray:
        return rows[text] if text in rows else np.resize(made_up(text), next(iter(rows.values())).shape[0])

    server.row_of = row_of
    return server
