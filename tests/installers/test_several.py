"""The configurations for several boxes: a real HAProxy and a real nginx in front of fake boxes that return their names.

installers/several/check.py does the same with real daemons, and measures.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from edgeembed.diagnostics.bench.texts import TextMaker
from tests.installers.loading import load

boxes = load("several/boxes.py")
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
PROGRAMS = {kind: shutil.which(kind, path=PATH) for kind in ("haproxy", "nginx")}
KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(not program, reason=f"{kind} is not on this machine (apt install {kind})"))
    for kind, program in PROGRAMS.items()
]


@dataclass
class Stub:
    """A fake box."""

    name: str
    port: int
    runner: web.AppRunner
    breaks: bool = False
    """Close the connection on each request, like a killed daemon."""
    asked: int = 0


@pytest.fixture
async def stubs() -> AsyncIterator[list[Stub]]:
    made: list[Stub] = []
    for number, port in enumerate(boxes.free_ports(3), start=1):
        app = web.Application()
        stub = Stub(f"box{number}", port, web.AppRunner(app))

        async def embeddings(request: web.Request, stub: Stub = stub) -> web.Response:
            await request.read()
            stub.asked += 1
            if stub.breaks:
                assert request.transport is not None
                request.transport.abort()
            return web.json_response({"box": stub.name})

        async def readyz(_request: web.Request) -> web.Response:
            return web.json_response({"status": "ok"})

        app.router.add_post("/v1/embeddings", embeddings)
        app.router.add_get("/readyz", readyz)
        await stub.runner.setup()
        await web.TCPSite(stub.runner, "127.0.0.1", port).start()
        made.append(stub)
    yield made
    for stub in made:
        await stub.runner.cleanup()


async def _ask(session: aiohttp.ClientSession, url: str, body: str) -> str:
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/embeddings", data=body.encode(), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        box: str = (await answer.json())["box"]
        return box


@pytest.mark.parametrize("kind", KINDS)
async def test_equal_texts_go_to_one_box_whatever_else_is_asked(kind: str, stubs: list[Stub], tmp_path: Path) -> None:
    texts = [*TextMaker(1).texts(40, 8), 'one with "quotes" and a \\ and\na line']
    with boxes.balancer(kind, True, stubs, tmp_path, PROGRAMS) as url:
        async with aiohttp.ClientSession() as session:
            await boxes.answering(session, url)
            homes = {}
            for text in texts:
                spellings = [
                    json.dumps({"input": text}),
                    json.dumps({"model": "m", "encoding_format": "base64", "input": text}),
                    json.dumps({"input": text, "dimensions": 64}, separators=(",", ":"), indent=1),
                ]
                found = {await _ask(session, url, body) for body in spellings}
                assert len(found) == 1, text
                homes[text] = found.pop()
            shares = collections.Counter(homes.values())
            assert set(shares) == {"box1", "box2", "box3"}
            # A list has one key.
            lists = [json.dumps({"input": texts[number : number + 3]}) for number in range(20)]
            first = [await _ask(session, url, body) for body in lists]
            assert len(set(first)) == 3
            assert first == [await _ask(session, url, body) for body in lists]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_box_that_breaks_off_costs_no_request_and_moves_no_other_text(
    kind: str, stubs: list[Stub], tmp_path: Path
) -> None:
    bodies = [json.dumps({"input": text}) for text in TextMaker(2).texts(60, 8)]
    with boxes.balancer(kind, True, stubs, tmp_path, PROGRAMS) as url:
        async with aiohttp.ClientSession() as session:
            await boxes.answering(session, url)
            before = {body: await _ask(session, url, body) for body in bodies}
            stubs[1].breaks, stubs[1].asked = True, 0
            during = {body: await _ask(session, url, body) for body in bodies}
    assert stubs[1].asked > 0  # the balancer tried it
    own = [body for body in bodies if before[body] == "box2"]
    assert {during[body] for body in own} == {"box1", "box3"}
    assert all(during[body] == before[body] for body in bodies if body not in own)
