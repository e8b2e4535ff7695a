"""What pages of other origins can do, in a real browser: headless Chromium, a real daemon, and two servers with pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.e2e.daemon import Daemon, running

SECRET = "a-key-that-nobody-guesses"
FETCH = """
const [url, options, done] = arguments;
fetch(url, options).then(
    async (response) => done({
        status: response.status, type: response.type, text: await response.text(), id: response.headers.get("X-Request-Id")
    }),
    (error) => done({error: String(error)}),
);
"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>a page</title>")

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def page_server() -> Iterator[str]:
    """Serve a page, and yield its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(chrome: webdriver.Chrome, url: str, **options: Any) -> dict[str, Any]:
    """Let the open page fetch something; return what its script sees."""
    answer: dict[str, Any] = chrome.execute_async_script(FETCH, url, options)  # type: ignore[no-untyped-call]
    return answer


@pytest.fixture(scope="module")
def origins() -> Iterator[tuple[str, str]]:
    with page_server() as allowed, page_server() as foreign:
        yield allowed, foreign


def requests(daemon: Daemon) -> dict[str, tuple[int, str, dict[str, Any]]]:
    """Return requests by what is wrong with them: the status, a word of the answer, what to fetch."""
    key = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    post = {"method": "POST", "body": '{"input": "hello"}'}
    return {
        "nothing": (200, "embedding", {"url": f"{daemon.url}/v1/embeddings", "headers": key, **post}),
        "no key": (401, "invalid_api_key", {"url": f"{daemon.url}/v1/embeddings", **post}),
        "path": (404, "unknown_url", {"url": f"{daemon.url}/v1/nothing", "headers": key}),
        "model": (
            404,
            "model_not_found",
            {"url": f"{daemon.url}/v1/embeddings", "headers": key, **post, "body": '{"input": "a", "model": "nobody"}'},
        ),
        "method": (405, "method_not_allowed", {"url": f"{daemon.url}/v1/embeddings", "headers": key, "method": "DELETE"}),
        "admin": (403, "forbidden", {"url": f"{daemon.url}/v1/admin/pause", "headers": key, "method": "POST"}),
        "body": (400, "not valid JSON", {"url": f"{daemon.url}/v1/embeddings", "headers": key, **post, "body": "{"}),
    }


def test_an_allowed_page_reads_answers_and_errors_and_a_foreign_one_reads_nothing(
    chromium: webdriver.Chrome, origins: tuple[str, str], home: Path, minilm: Callable[[str], Path]
) -> None:
    allowed, foreign = origins
    flags = ("--model", str(minilm("Q8_0")), "--allowed-origins", allowed)
    with running(*flags, home=home, EDGEEMBED_API_KEY=SECRET) as daemon:
        daemon.wait_for("ready:")
        chromium.get(allowed)
        for name, (status, words, options) in requests(daemon).items():
            answer = fetch(chromium, **options)
            assert answer.get("status") == status, (name, answer)
            assert words in answer["text"] and answer["id"], name
        chromium.get(foreign)
        for name, (_, _, options) in requests(daemon).items():
            assert "Failed to fetch" in fetch(chromium, **options).get("error", ""), name
            # A simple request is sent, but shows the page nothing.
            simple = {"url": options["url"], "mode": "no-cors", "method": options.get("method", "GET")}
            if simple["method"] != "DELETE":
                assert fetch(chromium, **simple) == {"status": 0, "type": "opaque", "text": "", "id": None}, name
