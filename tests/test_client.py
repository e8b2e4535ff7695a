"""The daemon's address, and telling an edgeembed from other programs there."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import orjson
import pytest

from edgeembed.client import Reply, ask, connected, daemon_url
from edgeembed.config.settings import Settings
from tests.cli.helpers import answering


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8327"),
        ("localhost", "http://127.0.0.1:8327"),
        ("0.0.0.0", "http://127.0.0.1:8327"),
        ("", "http://127.0.0.1:8327"),
        ("::", "http://[::1]:8327"),
        ("[::]", "http://[::1]:8327"),
        ("::1", "http://[::1]:8327"),
        ("[::1]", "http://[::1]:8327"),
        ("192.168.1.7", "http://192.168.1.7:8327"),
    ],
)
def test_addresses_to_connect_to(host: str, url: str) -> None:
    assert daemon_url(Settings(host=host)) == url


@contextmanager
def saying(answer: bytes | None) -> Iterator[int]:
    """Listen, and answer the first request with these bytes; with None, do not answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                if answer is not None:
                    connection.sendall(answer)
                else:
                    connection.recv(1000)

        thread = Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"error":{"message":"no memory"}}', "no memory"),
        ('{"error":{"message":' + "[" * 1020 + "]" * 1020 + "}}", "no reason given"),
        ('{"error":"no memory"}', "no reason given"),
        ("{}", "no reason given"),
    ],
)
def test_the_reason_in_an_error_is_a_text(body: str, reason: str) -> None:
    assert Reply(url="", status=500, server="", body=orjson.loads(body), digest="").reason == reason


async def test_the_server_header_identifies_a_daemon() -> None:
    with answering({"status": "ok"}) as (port, asked):
        reply = await ask(Settings(port=port), "/health")
    assert reply is not None and reply.ours
    assert (reply.status, reply.body, asked) == (200, {"status": "ok"}, ["/health"])


async def test_a_response_that_is_not_an_object_has_no_body() -> None:
    with answering([1, 2]) as (port, _):
        reply = await ask(Settings(port=port), "/")
    assert reply is not None and reply.ours and reply.body == {}


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 4\r\n\r\n{no}"]
)
async def test_other_programs_are_recognised(answer: bytes) -> None:
    with saying(answer) as port:
        reply = await ask(Settings(port=port), "/health")
    assert reply is not None and not reply.ours and reply.body == {}


async def test_there_is_no_reply_if_nothing_listens_or_answers(unused_tcp_port: int, tmp_path: Path) -> None:
    assert await ask(Settings(port=unused_tcp_port), "/") is None
    assert await ask(Settings(uds=str(tmp_path / "nothing.sock")), "/") is None
    for host in ("not an address", "http://x", "a..b"):
        assert await ask(Settings(host=host, port=unused_tcp_port), "/") is None
    with saying(None) as port:
        assert await ask(Settings(port=port), "/", seconds=0.2) is None


async def test_a_daemon_that_is_killed_while_it_answers_does_not_answer() -> None:
    cut = b"HTTP/1.1 200 OK\r\nServer: edgeembed/0.1\r\nContent-Length: 100\r\n\r\n{"
    with saying(cut) as port:
        assert await ask(Settings(port=port), "/", body={}) is None


async def test_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with answering({}, host="::1") as (port, _):
        reply = await ask(Settings(host="::", port=port), "/health")
    assert reply is not None and reply.ours


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Unix sockets")
async def test_a_unix_socket(tmp_path: Path) -> None:
    settings = Settings(uds=str(tmp_path / "daemon.sock"), host="192.0.2.1")
    assert daemon_url(settings) == f"http+unix://{tmp_path / 'daemon.sock'}"
    with answering({"status": "ok"}, uds=tmp_path / "daemon.sock") as (_, asked):
        reply = await ask(settings, "/health")
    assert reply is not None and reply.body == {"status": "ok"} and asked == ["/health"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [("# ours\n\nlaptop: s3cret\nother: x\n", 200), ("s3cret\n", 200), ("wrong\n", 401), ("", 401), (None, 401)],
)
async def test_a_key_from_the_file_is_sent_if_the_daemon_requires_one(
    lines: str | None, status: int, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    if lines is not None:
        file.write_text(lines)
    with answering({}, key="s3cret") as (port, _):
        reply = await ask(Settings(port=port, api_key_file=str(file)), "/v1/status")
    assert reply is not None and reply.status == status


async def test_requests_that_begin_together_all_send_the_key_in_the_end() -> None:
    """As after a restart of the daemon: nobody knows then whether it wants a key."""
    with answering({}, key="s3cret") as (port, _):
        async with connected(Settings(port=port, api_key="s3cret")) as connection:
            replies = await asyncio.gather(*(connection.ask("/v1/status") for _ in range(4)))
    assert [reply and reply.status for reply in replies] == [200] * 4


async def test_a_key_is_not_sent_to_another_program() -> None:
    with answering({}, key="s3cret", server="nginx") as (port, asked):
        reply = await ask(Settings(port=port, api_key="s3cret"), "/v1/status")
    assert reply is not None and reply.status == 401 and len(asked) == 1
    with answering({}, key="s3cret") as (port, _):
        reply = await ask(Settings(port=port, api_key="s3cret"), "/v1/status")
    assert reply is not None and reply.status == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_only_the_daemons_own_certificate_is_trusted(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        made = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subject = ["-subj", "/CN=vectors.example"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *made], check=True, capture_output=True
        )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "ours.pem", tmp_path / "ours.key")
    with answering({"status": "ok"}, tls=tls) as (port, _):
        reply = await ask(Settings(port=port, certfile=str(tmp_path / "ours.pem")), "/health")
        assert reply is not None and reply.ours and reply.url == f"https://127.0.0.1:{port}/health"
        reply = await ask(Settings(port=port, certfile=str(tmp_path / "other.pem")), "/health")
        assert reply is not None and not reply.ours
        assert await ask(Settings(port=port, certfile=str(tmp_path / "gone.pem")), "/health") is None
