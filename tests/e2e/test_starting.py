"""The port answers before there is a model: while it is read, downloaded or loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, running
from tests.hub.fakes import FakeHub
from tests.waiting import until

pytestmark = pytest.mark.slow

REPOSITORY = "acme/tiny-GGUF"
MODEL = f"hf:{REPOSITORY}"
EMBED = {"input": "hello"}
STAGE = re.compile(rf"fetching {MODEL}: tiny-Q8_0\.gguf \d+ %")


@pytest.fixture
def hub(minilm: Callable[[str], Path]) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.files[REPOSITORY] = {"tiny-Q8_0.gguf": minilm("Q8_0").read_bytes()}
    yield fake
    fake.close()


def environment(hub: FakeHub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1"}


def ask(daemon: Daemon, path: str, body: object = None) -> tuple[int, Any, str | None]:
    """Return status, JSON body and Retry-After of a request; a POST if it has a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(daemon.url + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response), response.headers["Retry-After"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers["Retry-After"]


def read(daemon: Daemon, path: str) -> str:
    with urllib.request.urlopen(daemon.url + path, timeout=60) as response:
        return str(response.read().decode())


def test_while_the_model_is_downloaded_requests_get_a_503_with_the_progress(hub: FakeHub, home: Path) -> None:
    hub.hold_at = 6_000_000
    with running("--model", MODEL, home=home, ready=False, **environment(hub)) as daemon:
        until(lambda: STAGE.search(daemon.get("/v1/status")[1]["starting"]), 60)
        status, health, retry_after = ask(daemon, "/health")
        assert (status, health["status"], retry_after) == (503, "starting", "1") and STAGE.search(health["reason"])
        assert daemon.get("/livez") == (200, {"status": "ok"})
        status, answer, retry_after = ask(daemon, "/v1/embeddings", EMBED)
        assert (status, answer["error"]["code"], retry_after) == (503, "model_loading", "5")
        assert STAGE.search(answer["error"]["message"])
        for path, body, words in (
            ("/api/embed", {"model": "tiny", "input": "hello"}, lambda answer: answer["error"]),
            ("/embed", {"inputs": "hello"}, lambda answer: (answer["error_type"] == "Unhealthy") * answer["error"]),
            (
                "/v2/embed",
                {"model": "tiny", "texts": ["hello"], "input_type": "search_query"},
                lambda answer: answer["message"],
            ),
            ("/info", None, lambda answer: answer["error"]),
        ):
            status, answer, retry_after = ask(daemon, path, body)
            assert (status, retry_after) == (503, "5") and STAGE.search(words(answer)), (path, answer)
        assert ask(daemon, "/v1/models")[:2] == (200, {"object": "list", "data": []})
        assert "edgeembed_build_info" in read(daemon, "/metrics") and "running" in read(daemon, "/")
        port = daemon.url.rpartition(":")[2]
        ps = subprocess.run(
            [sys.executable, "-m", "edgeembed", "ps", "--port", port], capture_output=True, text=True, check=True, timeout=60
        )
        assert STAGE.search(ps.stdout) and "No model is loaded" not in ps.stdout
        hub.gate.set()
        daemon.wait_for("ready: ")
        assert daemon.embed("hello").shape == (1, 384)
        assert daemon.get("/health")[0] == 200 and "starting" not in daemon.get("/v1/status")[1]
        assert daemon.get("/v1/models")[1]["data"][0]["id"] == "tiny"


def test_a_signal_stops_a_daemon_that_downloads_and_the_next_start_resumes(hub: FakeHub, home: Path) -> None:
    hub.hold_at = 6_000_000
    with running("--model", MODEL, home=home, ready=False, **environment(hub)) as daemon:
        daemon.wait_for("listens on")
        until(lambda: sum(file.stat().st_size for file in home.glob("models/**/*") if file.is_file()) > 1_000_000, 60)
        assert daemon.stop() == 0
    hub.hold_at = None
    with running("--model", MODEL, home=home, **environment(hub)):
        assert hub.downloads[-1].range is not None, "the rest of the file"


def test_a_daemon_whose_model_cannot_be_fetched_says_why_and_ends(hub: FakeHub, home: Path) -> None:
    with running("--model", "hf:acme/nothing", home=home, ready=False, **environment(hub)) as daemon:
        daemon.wait_for("error: .*acme/nothing")
        assert daemon.process.wait(60) == 1
        assert "Traceback" not in daemon.log


def test_a_request_waits_for_a_model_that_is_on_this_machine(minilm: Callable[[str], Path], home: Path) -> None:
    with running("--model", str(minilm("Q8_0")), home=home, ready=False) as daemon:
        assert daemon.embed("hello").shape == (1, 384)


def test_requests_that_wait_get_a_503_when_there_will_be_no_model(home: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Upstream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            answer.wait(60)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream, ThreadPoolExecutor() as threads:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{upstream.server_port}/v1"
        with running("--upstream", url, home=home, ready=False, NO_PROXY="127.0.0.1") as daemon:
            waiting = threads.submit(ask, daemon, "/v1/embeddings", EMBED)
            asked.wait(60)
            until(lambda: "edgeembed_http_requests_in_flight 2.0" in read(daemon, "/metrics"), 60)
            answer.set()
            status, body, retry_after = waiting.result(60)
            assert (status, body["error"]["code"], retry_after) == (503, "model_loading", "1")
            assert daemon.process.wait(60) == 2
        upstream.shutdown()
