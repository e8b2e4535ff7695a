"""Run real daemons behind two real HAProxys with the chart's configuration, and print what happens as pods come and go.

    python -m tests.installers.kubernetes_load MODEL.gguf

Clients send texts through either balancer, every tenth request a list that is too long to be sent twice. Meanwhile: nothing;
each box ends as a pod does (SIGTERM) and starts again at another address; one is killed; a fourth is added, and removed
again. Needs haproxy. Exits with 1 if a request failed, other than those of a killed box that cannot be repeated, or a vector
was wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.installers.pods import Balancer, Cluster, configuration, name_of

MOST, CLIENTS, TEXTS, REPEATS = 4, 8, 150, 6
PADDING = "x" * 80_000
"""More than the balancer keeps of a request: one that has it cannot be sent twice."""
SAME = 0.999


@dataclass
class Phase:
    """What clients saw for a while."""

    name: str
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    repeated: int = 0


class Pod:
    """A daemon with a home that stays, and an address that changes."""

    def __init__(self, number: int, model: Path, work: Path) -> None:
        self.number, self._model, self._home = number, model, work / f"box{number}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, port: int) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEEMBED_")}
        flags = ["--model", str(self._model), "--host", address, "--port", str(port), "--threads", "1", "--offline"]
        command = [sys.executable, "-m", "edgeembed", "serve", *flags, "--grace-period", "60"]
        environment = {**kept, "EDGEEMBED_HOME": str(self._home)}
        self._home.mkdir(exist_ok=True)
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    async def end(self, *, killed: bool = False) -> None:
        """Send SIGTERM, or SIGKILL to it and its worker, and wait for it."""
        if self._process is None:
            return
        if killed:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.terminate()
        await asyncio.to_thread(self._process.wait)
        self._process = None


class Clients:
    """Clients that send texts without a pause."""

    def __init__(self, session: aiohttp.ClientSession, balancers: list[Balancer]) -> None:
        self._session, self._turn = session, itertools.cycle(balancers)
        self.rows: dict[str, np.ndarray] = {}
        self.wrong = 0

    async def ask(self, phase: Phase, text: str | list[str], repeated: bool) -> None:
        """Send one request, and note how it went."""
        phase.asked += 1
        body = {"input": text, "user": PADDING} if isinstance(text, list) else {"input": text}
        try:
            async with self._session.post(f"{next(self._turn).url}/v1/embeddings", json=body) as answer:
                if answer.status != 200:
                    phase.failed[f"{answer.status} {'list' if isinstance(text, list) else 'text'}"] += 1
                    return
                row = np.array((await answer.json())["data"][0]["embedding"], np.float32)
                if repeated:
                    phase.repeated += 1
                    phase.hits += answer.headers["x-edgeembed-cache"] == "hit"
        except aiohttp.ClientError as error:
            phase.failed[f"{type(error).__name__} {'list' if isinstance(text, list) else 'text'}"] += 1
            return
        first = self.rows.setdefault(text if isinstance(text, str) else text[0], row)
        self.wrong += float(first @ row) < SAME

    async def fill(self, phase: Phase, texts: list[str]) -> None:
        """Send each text so many times, in random order."""
        order = [text for text in texts for _ in range(REPEATS)]
        random.Random(1).shuffle(order)
        waiting = iter(order)

        async def client() -> None:
            for text in waiting:
                await self.ask(phase, text, repeated=True)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    async def go_on(self, phase: Phase, texts: list[str], over: asyncio.Event) -> None:
        """Send texts until `over` is set: of ten, eight repeated, one new, one list of new ones."""
        chosen, fresh = random.Random(2), TextMaker(phase.name).texts(200_000, 12)
        new = iter(fresh)

        async def client() -> None:
            for turn in itertools.count():
                if over.is_set():
                    return
                kind = turn % 10
                text = list(itertools.islice(new, 40)) if kind == 0 else next(new) if kind == 1 else chosen.choice(texts)
                await self.ask(phase, text, repeated=kind > 1)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def run(model: Path, work: Path) -> bool:
    """Print the table; return whether all was well."""
    cluster = Cluster(work, configuration(f"replicas={MOST}"))
    await cluster.start()
    pods = [Pod(number, model, work) for number in range(MOST)]
    octets = itertools.count(1)
    texts = list(TextMaker(5).texts(TEXTS, 12))

    async def until_up(numbers: set[int]) -> None:
        for balancer in balancers:
            await balancer.until_up(numbers)

    async def start(pod: Pod) -> None:
        """Start a pod; it has a name when it is ready, as in the headless Service."""
        address = f"127.0.9.{next(octets)}"
        pod.start(address, cluster.port)
        while True:
            await asyncio.sleep(0.2)  # between two probes
            with contextlib.suppress(aiohttp.ClientError):
                async with cluster.session.get(f"http://{address}:{cluster.port}/readyz") as answer:
                    if answer.status == 200:
                        break
        cluster.names.addresses[name_of(pod.number)] = address

    async def end(pod: Pod, others: set[int]) -> None:
        """End a pod as Kubernetes does: its name goes first, its preStop hook waits, then it gets SIGTERM."""
        del cluster.names.addresses[name_of(pod.number)]
        await until_up(others)
        await pod.end()

    async def during(phase: Phase, work_: object) -> Phase:
        over = asyncio.Event()
        sending = asyncio.create_task(clients.go_on(phase, texts, over))
        await work_  # type: ignore[misc]
        over.set()
        await sending
        return phase

    async def restart_each() -> None:
        for pod in pods[:3]:
            await end(pod, {0, 1, 2} - {pod.number})
            await start(pod)
            await until_up({0, 1, 2})

    async def kill_one() -> None:
        await pods[1].end(killed=True)
        await until_up({0, 2})
        del cluster.names.addresses[name_of(1)]
        await start(pods[1])
        await until_up({0, 1, 2})

    async def add_one() -> None:
        await start(pods[3])
        await until_up({0, 1, 2, 3})
        await asyncio.sleep(5)  # of load with four

    async def remove_one() -> None:
        await end(pods[3], {0, 1, 2})

    try:
        balancers = [cluster.balancer(), cluster.balancer()]
        for pod in pods[:3]:
            await start(pod)
        await until_up({0, 1, 2})
        clients = Clients(cluster.session, balancers)
        first = Phase("three boxes")
        await clients.fill(first, texts)
        phases = [first]
        steps = {
            "each ends and starts": restart_each,
            "one is killed and starts": kill_one,
            "a fourth is added": add_one,
            "and removed": remove_one,
        }
        for name, step in steps.items():
            phases.append(await during(Phase(name), step()))
    finally:
        for pod in pods:
            await pod.end(killed=True)
        await cluster.close()
    sys.stdout.write("| | requests | failed | repeated texts from a cache |\n|---|---|---|---|\n")
    for phase in phases:
        failed = ", ".join(f"{count} ({what})" for what, count in phase.failed.items()) or "0"
        sys.stdout.write(f"| {phase.name} | {phase.asked} | {failed} | {phase.hits / max(1, phase.repeated):.1%} |\n")
    sys.stdout.write(f"wrong vectors: {clients.wrong}\n")
    return not clients.wrong and not any(phase.failed for phase in phases if phase.name != "one is killed and starts")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sys.exit(0 if asyncio.run(run(Path(sys.argv[1]).resolve(), Path(folder))) else 1)
