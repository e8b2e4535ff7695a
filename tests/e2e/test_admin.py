"""Admin requests to the real daemon: pause, resume, restart, shutdown."""

from __future__ import annotations

import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running
from tests.ports import free_port
from tests.waiting import until


def send(daemon: Daemon, command: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{daemon.url}/v1/admin/{command}", b""), timeout=30) as response:
        assert response.status == 200


def test_pause_resume_restart_and_shutdown(minilm: Callable[[str], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    port = free_port()
    with running("--model", str(minilm("Q8_0")), "--port", str(port), home=home) as daemon:
        known = daemon.embed("known")
        send(daemon, "pause")
        assert (daemon.embed("known") == known).all()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            daemon.embed("new")
        status, health = daemon.get("/health")
        assert (status, health["status"], health["paused"]) == (200, "paused", True), "a paused daemon is healthy"
        assert daemon.get("/v1/status")[1]["paused"] is True
        send(daemon, "resume")
        assert daemon.get("/health")[1]["status"] == "ok" and daemon.get("/v1/status")[1]["paused"] is False
        daemon.embed("new")

        before = daemon.get("/v1/status")[1]
        assert daemon.embed("kept in the cache").shape == (1, 384)
        (home / "config.toml").write_text("max_request_texts = 1\n")
        send(daemon, "restart")
        until(lambda: daemon.log.count("ready: ") == 2, seconds=60, found=lambda: daemon.log)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            daemon.embed(["two", "texts"])
        after = daemon.get("/v1/status")[1]
        assert after["pid"] == before["pid"] == daemon.process.pid
        assert after["uptime_seconds"] < before["uptime_seconds"] + 60 and after["engine"]["texts_computed"] == 0
        daemon.wait_for("restarting: requests in flight are finished first")

        send(daemon, "shutdown")
        assert daemon.process.wait(30) == 0
        daemon.wait_for("stopping: requests in flight are finished first")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_a_daemon_that_gets_sigterm_while_it_restarts_stops(minilm: Callable[[str], Path], tmp_path: Path) -> None:
    with running("--model", str(minilm("Q8_0")), "--grace-period", "30", home=tmp_path / "home") as daemon:
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as unfinished:
            unfinished.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            unfinished.sendall(b"Content-Length: 17\r\n\r\n{")
            until(lambda: daemon.get("/v1/status")[0] == 200)
            send(daemon, "restart")
            daemon.wait_for("restarting: requests in flight")
            daemon.process.send_signal(signal.SIGTERM)  # while it waits for that request
        assert daemon.process.wait(30) == 0
    assert daemon.log.count("listens on") == 1
