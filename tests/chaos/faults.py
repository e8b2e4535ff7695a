"""What goes wrong, and how it is mended. A fault returns when it is over; then the daemons have to recover."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web

from tests.chaos.clients import Client, Counts, Expected, Row, Rows
from tests.chaos.servers import Clock, Disk, Server
from tests.fake_upstreams import FakeUpstream
from tests.overwriting import NO_MODEL, WRITES
from tests.upstream.wrong_orders import WRONG
from tests.waiting import until_async

LIES = ("reversal", "rotation", "missing row", "extra row")
"""Wrong orders that are seen at once."""
LATER_SEEN_LIES = (
    "reversal of all but the sentinels",
    "random permutation of all but the sentinels",
    "index contradicts the order",
)
"""Wrong orders that leave the sentinel texts right: docs/security.md says that rows may be returned before they are seen."""
DAY = 86_400


@dataclass
class Scene:
    """All that a fault can reach. disk, clock: None where this machine has no means to break them."""

    local: Server
    caching: Server
    other: FakeUpstream
    disk: Disk | None
    clock: Clock | None
    served: Path
    files: tuple[Path, Path]
    """The model file, and another one of the same size."""
    digest: str
    """Of the model file."""
    rows: tuple[Rows, Rows]
    expected: Expected
    """Of the local daemon."""
    far_expected: Expected
    """Of the daemon with the other server."""
    session: aiohttp.ClientSession
    draw: random.Random

    async def some_seconds(self, least: float = 2.0, most: float = 6.0) -> None:
        await asyncio.sleep(self.draw.uniform(least, most))  # how long the fault lasts


async def until_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait until a question to a daemon is answered with yes. Raises AssertionError when the time is up."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        await asyncio.sleep(0.1)  # between two requests


async def worker_killed(scene: Scene) -> None:
    (await scene.local.worker()).send_signal(signal.SIGKILL)


async def worker_killed_again_and_again(scene: Scene) -> None:
    for _ in range(5):
        (await scene.local.worker()).send_signal(signal.SIGKILL)
        await asyncio.sleep(1.0)  # kills in a row


async def worker_stopped(scene: Scene) -> None:
    worker = await scene.local.worker()
    worker.send_signal(signal.SIGSTOP)
    await scene.some_seconds()
    if worker.is_running():
        worker.send_signal(signal.SIGCONT)


async def daemon_killed(scene: Scene) -> None:
    server = scene.draw.choice((scene.local, scene.caching))
    server.kill()
    await server.start(scene.session)


async def daemon_stopped(scene: Scene) -> None:
    """As a laptop that sleeps."""
    server = scene.draw.choice((scene.local, scene.caching))
    server.signal(signal.SIGSTOP)
    await scene.some_seconds()
    server.signal(signal.SIGCONT)


async def rows_of_nan(scene: Scene) -> None:
    for _ in range(scene.draw.randint(1, 4)):
        (await scene.local.worker()).send_signal(signal.SIGUSR1)
        await asyncio.sleep(0.5)  # some batches


async def disk_full(scene: Scene) -> None:
    assert scene.disk is not None
    scene.disk.fill()
    await scene.some_seconds()
    if scene.draw.random() < 0.3:
        (await scene.local.worker()).send_signal(signal.SIGKILL)
        await scene.some_seconds()
    scene.disk.empty()


async def clock_moved(scene: Scene) -> None:
    assert scene.clock is not None
    for _ in range(2):
        scene.clock.move(scene.draw.choice((-400 * DAY, -DAY, -7, 7, 3600, 40 * DAY, 3000 * DAY)))
        await scene.some_seconds()
    scene.clock.move(0)


async def file_replaced(scene: Scene) -> None:
    """Another model's file is written over the served one, and later the right one again."""
    for content, writes in zip(
        reversed(scene.files), (list(WRITES), [name for name in WRITES if name not in NO_MODEL]), strict=True
    ):
        await asyncio.to_thread(WRITES[scene.draw.choice(writes)], content, scene.served)
        await scene.some_seconds(4.0, 8.0)

    async def is_loaded() -> bool:
        models = (await scene.local.status(scene.session)).get("models") or [{}]
        return bool(models[0].get("digest") == scene.digest and models[0].get("state") == "ready")

    await until_true(is_loaded, 60.0)


async def upstream_lies(scene: Scene) -> None:
    scene.other.scramble = WRONG[scene.draw.choice(LIES)]()
    await scene.some_seconds()
    scene.other.scramble = lambda _texts, data: data
    # Such a server is believed again after a restart only, as the manual says.
    scene.caching.kill()
    await scene.caching.start(scene.session)


async def upstream_lies_about_others(scene: Scene) -> None:
    """A lie is seen when a text is asked again. From then on, no row may be wrong, while the server goes on lying."""

    async def is_seen() -> bool:
        upstream = (await scene.caching.status(scene.session))["upstream"]  # None until it is identified
        return bool(upstream and upstream["wrong_rows"])

    scene.far_expected.unseen = True
    scene.other.scramble = WRONG[scene.draw.choice(LATER_SEEN_LIES)]()
    try:
        await until_true(is_seen, 30.0)
        scene.far_expected.unseen = False
        await scene.some_seconds()
    finally:
        scene.far_expected.unseen = False
        scene.other.scramble = lambda _texts, data: data
        scene.caching.kill()
        await scene.caching.start(scene.session)


async def upstream_of_another_model(scene: Scene) -> None:
    """Its rows are that model's, and right as such, until the server has the first model again."""
    known = scene.other.row_of
    scene.far_expected.sets = [scene.rows[0], {text: _of_another_model(row) for text, row in scene.rows[0].items()}]
    scene.other.row_of = lambda text: _of_another_model(known(text))
    await scene.some_seconds()
    scene.other.row_of = known
    first = Expected([scene.rows[0]])
    probe = Client(scene.session, scene.caching.url, first, Counts(), "another")
    await until_true(lambda: probe.ask(scene.draw.sample(sorted(scene.rows[0]), 8), cached=0), 60.0)
    scene.far_expected.sets = [scene.rows[0]]


def _of_another_model(row: Row) -> Row:
    return np.ascontiguousarray(-row[::-1])


async def upstream_gone(scene: Scene) -> None:
    await scene.other.stop()
    await scene.some_seconds()
    await scene.other.start()


async def upstream_errors(scene: Scene) -> None:
    def trouble() -> web.Response:
        return scene.draw.choice(
            (
                lambda: scene.other.error(500, "no"),
                lambda: scene.other.error(503, "later"),
                lambda: web.Response(text="<html>", content_type="text/html"),
                lambda: web.Response(body=b'{"data": [', content_type="application/json"),
                lambda: web.json_response({"data": [{"index": 0, "embedding": [float("1e39")] * 384}]}),
            )
        )()

    scene.other.troubles.extend(trouble() for _ in range(scene.draw.randint(3, 20)))
    await until_async(lambda: not scene.other.troubles, 60.0)


async def upstream_hangs(scene: Scene) -> None:
    scene.other.hold.clear()
    await scene.some_seconds()
    scene.other.hold.set()


FAULTS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    fault.__name__: fault
    for fault in (
        worker_killed,
        worker_killed_again_and_again,
        worker_stopped,
        daemon_killed,
        daemon_stopped,
        rows_of_nan,
        disk_full,
        clock_moved,
        file_replaced,
        upstream_lies,
        upstream_lies_about_others,
        upstream_of_another_model,
        upstream_gone,
        upstream_errors,
        upstream_hangs,
    )
}
