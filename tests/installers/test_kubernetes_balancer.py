"""The chart's balancer: a real HAProxy finds boxes by the names of a headless Service, as they come and go."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.installers.kubernetes_tools import needs_helm
from tests.installers.loading import INSTALLERS
from tests.installers.pods import HAPROXY, Cluster, configuration, name_of
from tests.waiting import until_async

needs_haproxy = pytest.mark.skipif(not HAPROXY, reason="haproxy is not on this machine (apt install haproxy)")
pytestmark = [needs_helm, needs_haproxy, pytest.mark.xdist_group("chart")]
SHARED = re.compile(
    r"^ +((?:http-request set-var|balance|hash-type|retries|option (?:redispatch|httpchk|http-buffer)|retry-on|http-check|"
    r"http-response).*)$",
    re.MULTILINE,
)
"""Lines about keys, hashing, retries and checks."""


def checked(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Return what `haproxy -c` says of a configuration."""
    file = folder / "checked.cfg"
    file.write_text(text, encoding="utf-8")
    return subprocess.run([str(HAPROXY), "-c", "-f", str(file)], capture_output=True, text=True, timeout=30)


@dataclass
class Box:
    """A pod that answers with its number; its port is that of all pods, its address its own."""

    number: int
    address: str
    port: int
    runner: web.AppRunner | None = None
    slow: asyncio.Event = field(default_factory=asyncio.Event)
    """What a request with the header X-Slow waits for."""
    waiting: int = 0

    async def start(self) -> None:
        async def embeddings(request: web.Request) -> web.Response:
            await request.read()
            if "X-Slow" in request.headers:
                self.waiting += 1
                await self.slow.wait()
            return web.json_response({"box": self.number})

        async def readyz(_request: web.Request) -> web.Response:
            return web.Response()

        app = web.Application(client_max_size=2**22)
        app.router.add_post("/v1/embeddings", embeddings)
        app.router.add_get("/readyz", readyz)
        self.runner = web.AppRunner(app, shutdown_timeout=30)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.address, self.port).start()

    async def end(self) -> None:
        """End as the daemon does at SIGTERM: the port is closed first, then requests in flight are finished."""
        if self.runner is not None:
            await self.runner.cleanup()


class Pods(Cluster):
    """A cluster of such boxes."""

    def __init__(self, folder: Path, most: int) -> None:
        super().__init__(folder, configuration(f"replicas={most}"))
        self.boxes: dict[int, Box] = {}

    async def close(self) -> None:
        await super().close()
        for box in self.boxes.values():
            box.slow.set()
            await box.end()

    async def add(self, number: int, last_octet: int = 0) -> Box:
        """Start a box, with a name from now on."""
        box = Box(number, f"127.0.8.{last_octet or number + 1}", self.port)
        await box.start()
        self.boxes[number] = box
        self.names.addresses[name_of(number)] = box.address
        return box


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Pods]:
    made = Pods(tmp_path, most=4)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


TEXTS = [*TextMaker(3).texts(150, 6), 'one with "quotes" and a \\ and\na line']


@pytest.mark.parametrize("values", [(), ("balancer.hashBalanceFactor=150",), ("autoscaling.enabled=true",)], ids=len)
def test_haproxy_accepts_the_configuration(values: tuple[str, ...], tmp_path: Path) -> None:
    found = checked(configuration(*values), tmp_path)
    assert found.returncode == 0, found.stderr
    assert "WARNING" not in found.stderr


def test_keys_and_retries_are_those_of_boxes_without_kubernetes() -> None:
    """installers/several measures them."""
    several = (INSTALLERS / "several" / "haproxy.cfg").read_text(encoding="utf-8")
    found = set(SHARED.findall(configuration()))
    assert found == set(SHARED.findall(several))
    assert len(found) >= 10


def test_there_is_a_line_for_each_box_that_the_autoscaler_may_add() -> None:
    names = re.findall(
        r"server (\S+) \1\.edgeembed-boxes\.here\.svc\.cluster\.local:8327 id (\d+)", configuration("replicas=5")
    )
    assert names == [(f"edgeembed-{number}", str(number + 1)) for number in range(5)]
    assert (
        len(re.findall(r"^ +server ", configuration("autoscaling.enabled=true", "autoscaling.maxReplicas=12"), re.M)) == 12
    )


def test_boxes_keep_their_addresses_while_dns_is_away() -> None:
    """With HAProxy's defaults all are lost after half a minute, which is too long for a test to wait."""
    assert re.findall(r"hold (timeout|refused|other) 1d$", configuration(), re.MULTILINE) == ["timeout", "refused", "other"]


async def test_balancers_agree_on_the_box_of_a_text_and_few_texts_move(cluster: Pods) -> None:
    for number in (2, 0, 1):
        await cluster.add(number)
    first = cluster.balancer()
    await first.until_up({0, 1, 2})
    three = await first.homes(TEXTS)
    assert set(Counter(three.values())) == {0, 1, 2}
    spelt = json.dumps({"model": "m", "input": TEXTS[-1], "dimensions": 64}, indent=1).encode()
    assert await first.ask(spelt) == three[TEXTS[-1]]

    await cluster.add(3)
    await first.until_up({0, 1, 2, 3})
    four = await first.homes(TEXTS)
    moved = [text for text in TEXTS if four[text] != three[text]]
    assert {four[text] for text in moved} == {3}
    assert len(TEXTS) / 8 < len(moved) < len(TEXTS) / 2

    # One that starts later, and one box later goes again.
    second = cluster.balancer()
    await second.until_up({0, 1, 2, 3})
    assert await second.homes(TEXTS) == four
    del cluster.names.addresses[name_of(3)]
    await cluster.boxes[3].end()
    await second.until_up({0, 1, 2})
    assert await second.homes(TEXTS) == three


async def test_boxes_that_come_back_at_other_addresses_have_their_own_texts(cluster: Pods) -> None:
    for number in range(3):
        await cluster.add(number)
    balancer = cluster.balancer()
    await balancer.until_up({0, 1, 2})
    before = await balancer.homes(TEXTS)
    for number in (0, 1):
        await cluster.boxes[number].end()
    await balancer.until_up({2})
    assert set((await balancer.homes(TEXTS)).values()) == {2}
    await cluster.add(0, last_octet=12)
    await cluster.add(1, last_octet=11)
    await balancer.until_up({0, 1, 2})
    assert await balancer.homes(TEXTS) == before


async def test_what_would_change_one_box_is_refused(cluster: Pods) -> None:
    await cluster.add(0)
    balancer = cluster.balancer()
    await balancer.until_up({0})
    for path in ("/v1/admin/stop", "/v1/admin", "/api/pull", "/api/delete", "/api/copy"):
        async with cluster.session.post(balancer.url + path, json={}) as answer:
            assert answer.status == 403
            assert "one of several" in (await answer.json())["error"]["message"]


async def test_a_box_that_ends_finishes_a_large_request(cluster: Pods) -> None:
    """Larger than the balancer's buffer, it could not be sent to another box."""
    for number in range(2):
        await cluster.add(number)
    balancer = cluster.balancer()
    await balancer.until_up({0, 1})
    body = json.dumps({"input": ["word " * 100_000]}).encode()
    asking = asyncio.create_task(balancer.ask(body, **{"X-Slow": "1"}))
    await until_async(lambda: any(box.waiting for box in cluster.boxes.values()) or asking.done())
    (busy,) = (box for box in cluster.boxes.values() if box.waiting)
    ending = asyncio.create_task(busy.end())
    await balancer.until_up({1 - busy.number})
    del cluster.names.addresses[name_of(busy.number)]
    assert set((await balancer.homes(TEXTS[:20])).values()) == {1 - busy.number}
    busy.slow.set()
    assert await asking == busy.number
    await ending
