"""Two replicas on a local Ray: real Serve, real daemons, real clients."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from aiohttp import web
from yarl import URL

from tests.e2e.daemon import cosines, running
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.ports import free_port
from tests.ray_serve.serving import Serving, serving
from tests.waiting import until_async

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.model, pytest.mark.xdist_group("ray")]  # one cluster at a time

KEY = "sesame"
CLIENTS = 8
TEXTS = [f"text {number} " + "word " * (number % 9) for number in range(60)]
REPLICA = "ray::ServeReplica:edgeembed:edgeembed"
DAEMON = "edgeembed.ray_serve.child"


@pytest.fixture(scope="module")
def ray() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (it is in the dev group, and in edgeembed[serve]): no cluster to serve on")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def chat_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(ray: None, model: Path, chat_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    arguments = {
        "model": str(model),
        "replicas": 2,
        "offline": True,
        "max_body_mib": 1,
        "forward": f"http://127.0.0.1:{chat_port}/v1",
    }
    with serving(free_port(), arguments, tmp_path_factory.mktemp("serve"), EDGEEMBED_API_KEY=KEY) as found:
        yield found


@pytest.fixture
async def session(served: Serving) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(served.url, headers=headers, timeout=aiohttp.ClientTimeout(total=90)) as found:
        yield found


def test_clients_get_what_a_daemon_answers(served: Serving, model: Path, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0)
    got = client.embeddings.create(model="tiny", input=TEXTS)
    with running("--model", str(model), "--threads", "1", "--offline", home=tmp_path / "home") as daemon:
        wanted = daemon.embed(TEXTS)
    assert cosines(np.array([each.embedding for each in got.data], dtype=np.float32), wanted).min() > 0.99999
    assert client.models.list().data[0].id == "tiny"
    with pytest.raises(openai.NotFoundError, match="other"):
        client.embeddings.create(model="other", input="x")
    with pytest.raises(openai.AuthenticationError, match="unknown API key"):
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0).embeddings.create(model="tiny", input="x")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": "x"}),
        ("/api/embed", {"model": "tiny", "input": "x"}),
        ("/v2/embed", {"model": "tiny", "texts": ["x"], "input_type": "search_query", "embedding_types": ["float"]}),
        ("//v1/v1/embeddings/", {"input": "x"}),
        ("/v1/embeddings?a=%2F", {"input": "x"}),
    ],
)
async def test_every_dialect_and_spelling_passes(
    served: Serving, session: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> None:
    async with session.post(URL(served.url + path, encoded=True), json=body) as answer:
        assert answer.status == 200, await answer.text()


async def test_bytes_and_headers_pass_unchanged(session: aiohttp.ClientSession) -> None:
    packed = gzip.compress(json.dumps({"input": "packed", "encoding_format": "base64"}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", "X-Request-Id": "abc.1"}
    for cache in ("miss", "hit"):
        async with session.post("/v1/embeddings", data=packed, headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers.getall("X-Request-Id") == ["abc.1"]
            assert answer.headers["X-Edgeembed-Cache"] == cache
            assert isinstance((await answer.json())["data"][0]["embedding"], str)
    async with session.head("/health") as answer:
        assert answer.status == 200
        assert await answer.read() == b""
    ask = {"Origin": "app://obsidian.md", "Access-Control-Request-Method": "POST"}
    async with session.options("/v1/embeddings", headers=ask) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "app://obsidian.md"
        assert "Content-Length" not in answer.headers


async def test_errors_have_the_format_of_their_dialect(session: aiohttp.ClientSession) -> None:
    async with session.post("/api/embed", data=b" " * (2**20 + 1)) as answer:
        assert answer.status == 413
        assert "larger than 1 MiB" in (await answer.json())["error"]
    async with session.post("/v1/embeddings", json={"input": []}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/admin"), ("POST", "/v1/admin/shutdown"), ("POST", "/api/pull"), ("DELETE", "/api/delete"), ("GET", "/")],
)
async def test_nobody_administers_one_replica_by_chance(session: aiohttp.ClientSession, method: str, path: str) -> None:
    async with session.request(method, path, json={} if method != "GET" else None) as answer:
        assert answer.status == (404 if path == "/" else 403)


async def test_equal_texts_go_to_the_same_replica(session: aiohttp.ClientSession) -> None:
    homes: dict[str, set[str]] = {}
    for _ in range(3):
        for text in TEXTS[:20]:
            async with session.post("/v1/embeddings", json={"input": text}) as answer:
                homes.setdefault(text, set()).add(answer.headers["X-Edgeembed-Replica"])
    assert all(len(each) == 1 for each in homes.values())
    assert len(set.union(*homes.values())) == 2


async def test_each_replica_reports(session: aiohttp.ClientSession) -> None:
    async with session.get("/v1/replicas") as answer:
        listed = (await answer.json())["replicas"]
    names = {each["replica"] for each in listed}
    assert len(names) == 2
    assert len({each["status"]["pid"] for each in listed}) == 2
    async with session.get("/metrics") as answer:
        text = await answer.text()
    for name in names:
        assert f'edgeembed_uptime_seconds{{replica="{name}"}}' in text
    assert text.count("# TYPE edgeembed_http_requests_total counter") == 1
    async with session.get("/metrics", headers={"Authorization": "Bearer wrong"}) as answer:
        assert answer.status == 401


async def test_a_stream_is_passed_on_as_it_comes(session: aiohttp.ClientSession, chat_port: int) -> None:
    first_arrived = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await asyncio.wait_for(first_arrived.wait(), 30)
        await response.write(b"data: two\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", chat_port).start()
    try:
        async with session.post("/v1/chat/completions", json={"messages": []}) as answer:
            assert await answer.content.readuntil(b"\n\n") == b"data: one\n\n"
            first_arrived.set()
            assert await answer.content.read() == b"data: two\n\n"
    finally:
        await runner.cleanup()


class Load:
    """Clients that embed texts until they are told to end."""

    def __init__(self, session: aiohttp.ClientSession, texts: Sequence[str]) -> None:
        self._session = session
        self._texts = texts
        self._number = 0
        self.over = asyncio.Event()
        self.failures: list[str] = []
        self.rows: list[tuple[str, list[float]]] = []
        self.replicas: set[str] = set()

    async def run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def until(self, condition: Any) -> None:
        """Return when more answers have come and a condition holds."""
        begin = len(self.rows)
        await until_async(lambda: len(self.rows) >= begin + 20 and condition(), 90, interval=0.05)

    async def _client(self) -> None:
        while not self.over.is_set():
            self._number += 1
            text = self._texts[self._number % len(self._texts)]
            async with self._session.post("/v1/embeddings", json={"input": text, "cache": False}) as answer:
                if answer.status != 200:
                    self.failures.append(await answer.text())
                    continue
                self.rows.append((text, (await answer.json())["data"][0]["embedding"]))
                self.replicas.add(answer.headers["X-Edgeembed-Replica"])


async def test_no_request_fails_when_a_replica_is_killed_or_taken_away(
    served: Serving, session: aiohttp.ClientSession
) -> None:
    async with session.post("/v1/embeddings", json={"input": TEXTS}) as answer:
        right = {text: each["embedding"] for text, each in zip(TEXTS, (await answer.json())["data"], strict=True)}
    load = Load(session, TEXTS)
    loading = asyncio.create_task(load.run())
    await load.until(lambda: len(load.replicas) == 2)
    daemons = served.processes(DAEMON)
    served.processes(REPLICA)[0].kill()
    await load.until(lambda: len(load.replicas) == 3)
    assert sum(each.is_running() for each in daemons) == 1, "the daemon of a killed replica ends"
    served.processes(DAEMON)[0].kill()
    await load.until(lambda: len(served.processes(REPLICA)) == 1)  # its replica has ended, too
    await asyncio.to_thread(served.deploy, replicas=1)  # the old ones are drained
    await load.until(lambda: len(served.processes(DAEMON)) == 1)
    load.over.set()
    await loading
    assert load.failures == []
    assert len(load.rows) > 100
    rows = np.array([row for _, row in load.rows], dtype=np.float32)
    assert cosines(rows, np.array([right[text] for text, _ in load.rows], dtype=np.float32)).min() > 0.99999
