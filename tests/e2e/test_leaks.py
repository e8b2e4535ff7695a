"""No part of a request, and no key, is in anything that the daemon writes or shows, however broken the request is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeembed.server.ops.operations import OPERATIONS
from tests.e2e.broken_requests import KEY, MARK, send_all
from tests.e2e.daemon import Daemon, running

CASES = 520
ADMIN = sorted(path for method, path in OPERATIONS if method == "GET" and path.startswith("/v1/admin"))
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class QuotingServer:
    """A server for `forward` that breaks the rules of HTTP, and quotes in doing so what it was sent."""

    def __init__(self) -> None:
        self.received = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(1 << 16)
        quoted = asked[asked.find(MARK.encode()) :][:200].replace(b"\r\n", b" ") or MARK.encode()
        answers = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(quoted), quoted),
            b"%b\r\n\r\n" % quoted,
            b"HTTP/1.1 %b\r\n\r\n" % quoted,
            b"HTTP/1.1 200 %b\r\nContent-Length: 0\r\n\r\n" % quoted,
            b"HTTP/1.1 200 OK\r\n%b\x01: x\r\n\r\n" % quoted,
            b"HTTP/1.1 200 OK\r\nX-Long: %b\r\n\r\n" % (quoted * 200),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n%b\r\n" % quoted,
            b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % quoted,
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n%b" % quoted,
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n%b" % quoted[:5],
            b"HTTP/1.1 302 Found\r\nLocation: http://%b/\r\nSet-Cookie: %b=%b\r\nContent-Length: 0\r\n\r\n"
            % (quoted, quoted, quoted),
            b"HTTP/1.1 503 no\r\nContent-Length: 20\r\n\r\n" + b'{"error":"%b"}' % quoted[:8],
            b"",
        )
        writer.write(answers[self.received % len(answers)])
        self.received += 1
        await writer.drain()
        writer.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def read(daemon: Daemon, path: str, tls: ssl.SSLContext | None) -> str:
    request = urllib.request.Request(_url(daemon) + path, headers={"Authorization": f"Bearer {KEY}"})
    try:
        with urllib.request.urlopen(request, timeout=60, context=tls) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:  # while the worker starts again
        return error.read().decode()


def _url(daemon: Daemon) -> str:
    return daemon.wait_for(r"listens on (https?://[^\s,]+),")[1]


@pytest.mark.slow
@pytest.mark.parametrize(("format_", "encrypted"), [("text", False), ("json", False), ("json", True)])
async def test_nothing_that_a_client_wrote_is_shown(
    home: Path, minilm: Callable[[str], Path], tmp_path: Path, format_: str, encrypted: bool
) -> None:
    flags = ["--model", str(minilm("Q8_0")), "--log-level", "debug", "--log-format", format_, "--max-body-mib", "1"]
    tls = None
    if encrypted:
        if shutil.which("openssl") is None:
            pytest.skip("openssl makes the certificate")
        certificate, key = make_certificate(tmp_path)
        flags += ["--certfile", str(certificate), "--keyfile", str(key)]
        tls = ssl.create_default_context(cafile=str(certificate))
        tls.check_hostname = False
    quoting = QuotingServer()
    other = await asyncio.start_server(quoting, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    keys = {"EDGEEMBED_API_KEY": KEY, "EDGEEMBED_FORWARD_KEY": f"{MARK}-forward-key", "HF_TOKEN": f"{MARK}-token"}
    with running(*flags, "--forward", f"http://127.0.0.1:{port}/v1", home=home, ready=False, **keys) as daemon:
        await asyncio.to_thread(daemon.wait_for, "ready: ")
        at = int(_url(daemon).rpartition(":")[2])
        statuses = await send_all("127.0.0.1", at, CASES, tls=tls)
        if encrypted:
            statuses += await send_all("127.0.0.1", at, 22, seed=2)  # HTTP where TLS is expected
        status = json.loads(await asyncio.to_thread(read, daemon, "/v1/status", tls))
        if sys.platform != "win32":
            os.kill(status["engine"]["worker_pid"], signal.SIGSEGV)  # its last output is logged
            await asyncio.to_thread(daemon.wait_for, "ended by SIGSEGV")
        shown = [
            await asyncio.to_thread(read, daemon, path, tls)
            for path in ("/health", "/v1/status", "/metrics", *ADMIN, "/v1/admin/log?level=debug&lines=1000")
        ]
        if not encrypted:
            command = [sys.executable, "-m", "edgeembed", "doctor", "--port", str(at)]
            environ = {**os.environ, **keys, "EDGEEMBED_HOME": str(home)}
            doctor = await asyncio.to_thread(
                subprocess.run, command, env=environ, capture_output=True, text=True, timeout=120, check=False
            )
            shown += [doctor.stdout, doctor.stderr]
        assert await asyncio.to_thread(daemon.stop) == 0
    other.close()
    assert statuses["200"] > 20 and statuses["400"] > 50 and statuses["401"] > 20 and not statuses["500"], statuses
    assert quoting.received > 13, "every answer was given"
    for text in (daemon.log, *shown):
        assert MARK not in text, [line for line in text.splitlines() if MARK in line][:5]
    assert not (found := CONTROL.findall(daemon.log)), found
    for file in home.rglob("*"):
        assert not file.is_file() or MARK.encode() not in file.read_bytes(), file
    assert "a request cannot be read: " in daemon.log
    if format_ == "json":
        assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in daemon.lines)
    assert "Traceback" not in daemon.log and "unexpected" not in daemon.log, "a broken request is no bug"
    assert max(map(len, daemon.lines)) < 5000
