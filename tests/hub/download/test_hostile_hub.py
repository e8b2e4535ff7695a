"""A hub, or what stands in its place, that sends more than it promised, and addresses and sizes that cannot be."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeembed.common.backoff import Backoff
from edgeembed.config.settings import Settings
from edgeembed.errors import HubError, SourceUnreachableError
from edgeembed.hub.download import checks, transfer, transport
from edgeembed.hub.download.huggingface import HubClient
from edgeembed.hub.download.listing import MOST_LISTING_BYTES
from edgeembed.hub.download.partials import Partials
from edgeembed.hub.download.transfer import RemoteFile, download
from edgeembed.hub.download.transport import Refusal, RetryBudget
from tests.fakes import Lines

REPO, COMMIT = "acme/large", "0123456789abcdef0123456789abcdef01234567"
DEEP = b'{"sha":"a","cardData":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
BUFFERS = 16 * 2**20


class HostileHub(http.server.ThreadingHTTPServer):
    """Answers every request with `respond`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.respond: Callable[[Any], None] = lambda _handler: None
        self.requests = 0
        self.sent = 0
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.requests += 1
                hub.respond(self)

            def head(self, status: int = 200, **headers: str) -> None:
                self.close_connection = True
                self.send_response(status)
                for name, value in {"Connection": "close", **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def endless(self, block: bytes = b" " * 65_536) -> None:
                try:
                    while hub.sent < 2**30:
                        self.wfile.write(block)
                        hub.sent += len(block)
                except OSError:
                    pass

        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def always(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Send the same response to every request."""

        def respond(handler: Any) -> None:
            handler.head(status, Content_Length=str(len(body)), **headers)
            if handler.command != "HEAD":
                handler.wfile.write(body)

        self.respond = respond

    def without_end(self, **headers: str) -> None:
        """Send a body that does not end."""

        def respond(handler: Any) -> None:
            handler.head(**headers)
            handler.endless()

        self.respond = respond

    def listing(self, **sibling: Any) -> None:
        """List one file."""
        listed = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": "m.gguf", **sibling}]}
        self.always(json.dumps(listed).encode(), Content_Type="application/json")


@pytest.fixture
def hub(paths: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileHub]:
    server = HostileHub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(settings: Settings, report: Lines) -> HubClient:
    return HubClient(Settings(hub_timeout=10.0), report)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "m.gguf"


def remote(size: int | None = 1000, sha256: str | None = "b" * 64) -> RemoteFile:
    return RemoteFile(REPO, "m.gguf", COMMIT, size, sha256)


def on_disk(target: Path) -> int:
    return sum(path.stat().st_size for path in target.parent.iterdir())


def test_a_listing_without_an_end_is_not_read_to_its_end(hub: HostileHub, client: HubClient) -> None:
    hub.without_end(Content_Type="application/json")
    with pytest.raises(Refusal, match=f"longer than {MOST_LISTING_BYTES} bytes"):
        client.listing(REPO)
    assert hub.requests == 1 and hub.sent < MOST_LISTING_BYTES + BUFFERS


def test_a_listing_that_is_a_bomb_is_not_decompressed_to_its_end(hub: HostileHub, client: HubClient) -> None:
    hub.always(gzip.compress(b" " * (MOST_LISTING_BYTES + 1)), Content_Encoding="gzip")
    with pytest.raises(Refusal, match="longer than"):
        client.listing(REPO)


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b'{"x":' + DEEP + b"}",
        b"[]",
        b"{}",
        b"<html>",
        b'{"sha": 7}',
        b'{"sha": "../../../x"}',
        b"\xff\xfe",
        b'{"sha":"\xff"}',
    ],
)
def test_a_listing_that_is_none_is_an_error_message(body: bytes, hub: HostileHub, client: HubClient) -> None:
    hub.always(body)
    with pytest.raises(SourceUnreachableError, match="check that HF_ENDPOINT is a model hub"):
        client.listing(REPO)
    assert hub.requests == 1


@pytest.mark.parametrize(
    ("stated", "license_"),
    [
        ("mit", "mit"),
        (["mit", "gpl-3.0"], "mit AND gpl-3.0"),
        (["mit", [["x"]], 7], "mit"),
        ({"name": "mit"}, None),
        (7, None),
    ],
)
def test_a_licence_is_a_text_or_a_list_of_texts(
    stated: object, license_: str | None, hub: HostileHub, client: HubClient
) -> None:
    hub.always(json.dumps({"sha": COMMIT, "siblings": [], "cardData": {"license": stated}}).encode())
    assert client.listing(REPO).license == license_


@pytest.mark.parametrize("size", [-5, 2**80, 1.5, "1000", True])
def test_a_size_that_cannot_be_is_an_error_at_once(size: Any, hub: HostileHub, client: HubClient) -> None:
    hub.listing(size=size)
    with pytest.raises(Refusal, match="size"):
        client.listing(REPO)
    assert hub.requests == 1


def test_a_head_with_nonsense_is_not_believed(hub: HostileHub, client: HubClient, tmp_path: Path) -> None:
    hub.always(b"", X_Linked_Size="-5", ETag='"x"', X_Repo_Commit=COMMIT)
    with pytest.raises(Refusal, match="would have -5 bytes"):
        client.head(REPO, "m.gguf")
    hub.always(b"", ETag='"x"', X_Repo_Commit="../../../evil")
    assert client.head(REPO, "m.gguf").commit is None
    assert Partials(tmp_path / "partials").folder(REPO, "../../../evil").parent == tmp_path / "partials"


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:port/"])
def test_an_address_that_cannot_be_followed_is_an_error_at_once(location: str, hub: HostileHub, target: Path) -> None:
    def redirect(handler: Any) -> None:
        handler.head(302, Content_Length="0", Location=location or handler.path)

    hub.respond = redirect
    with pytest.raises(Refusal, match="the address of the file cannot be followed"):
        download(remote(), target)
    assert hub.requests == (1 if location else 21), "no second attempt"


def test_redirects_of_a_listing_end(hub: HostileHub, client: HubClient) -> None:
    hub.respond = lambda handler: handler.head(302, Content_Length="0", Location=handler.path)
    with pytest.raises(Refusal, match="cannot be followed"):
        client.listing(REPO)
    with pytest.raises(Refusal, match="cannot be followed"):
        client.head(REPO, "m.gguf")
    assert hub.requests <= 42


def test_a_file_that_is_larger_than_promised_is_not_written_to_its_end(hub: HostileHub, target: Path) -> None:
    hub.without_end()
    with pytest.raises(Refusal, match="more than the 1000 bytes that the hub promised"):
        download(remote(), target)
    assert hub.requests == 1 and on_disk(target) <= 1000


def test_a_file_that_is_a_bomb_is_not_written_to_its_end(hub: HostileHub, target: Path) -> None:
    hub.always(gzip.compress(b" " * 2**26), Content_Encoding="gzip")
    with pytest.raises(Refusal, match="more than the 1000 bytes"):
        download(remote(), target)
    assert on_disk(target) <= 1000
    hub.always(b"x", Content_Encoding="br")
    with pytest.raises(Refusal, match="'br', which was not asked for"):
        download(remote(), target)


def test_a_file_of_an_unknown_size_does_not_fill_the_disk(
    hub: HostileHub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_UNPROMISED", 2**20)
    hub.without_end()
    with pytest.raises(Refusal, match="more than the 1048576 bytes that a file of an unknown size may have"):
        download(remote(None, None), target)
    assert on_disk(target) <= 2**20 and hub.sent < BUFFERS


def test_the_size_in_a_response_is_held_against_the_disk(
    hub: HostileHub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.always(b"x" * 3000)
    download(remote(None, None), target)
    assert target.stat().st_size == 3000
    target.unlink()
    monkeypatch.setattr(checks, "_RESERVE", 2**60)
    with pytest.raises(HubError, match="not enough disk space"):
        download(remote(None, None), target)
    assert hub.requests == 2


def test_a_checkpoint_of_very_many_files_is_refused(hub: HostileHub, client: HubClient, tmp_path: Path) -> None:
    files = [{"rfilename": f"{n}.json"} for n in range(2000)] + [{"rfilename": "model.safetensors"}]
    hub.always(json.dumps({"sha": COMMIT, "siblings": files}).encode())
    listing = client.listing(REPO)
    with pytest.raises(HubError, match="2001 files"):
        client.checkpoint(listing, tmp_path)
    assert hub.requests == 1


def test_a_connection_that_drips_is_given_up(hub: HostileHub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Any) -> None:
        handler.head()
        try:
            while True:
                handler.wfile.write(b"x")
                gate.wait(0.01)
        except OSError:
            pass

    gate = threading.Event()
    hub.respond = drip
    monkeypatch.setattr(transfer, "_SLOWEST", 1e6)
    budget = RetryBudget(attempts=1, backoff=Backoff(first=0.0, longest=0.0), silence=0.1)
    with pytest.raises(SourceUnreachableError, match=r"sent only|timed out"):
        download(remote(10**9), target, retry_budget=budget)
    gate.set()


def test_what_arrives_in_bits_is_no_progress(hub: HostileHub, target: Path) -> None:
    """One new byte with each attempt would keep a download going for centuries."""

    def respond(handler: Any) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.head(206, Content_Range=f"bytes {start}-999999999/1000000000", Content_Length=str(10**9 - start))
        handler.wfile.write(b"x")

    hub.respond = respond
    with pytest.raises(SourceUnreachableError):
        download(remote(10**9), target)
    assert hub.requests <= transport.RETRY_BUDGET.attempts + 1
