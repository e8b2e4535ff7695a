"""Admin requests to the real daemon: pause, resume, shutdown."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running


def send(daemon: Daemon, command: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{daemon.url}/v1/admin/{command}", b""), timeout=30) as response:
        assert response.status == 200


def test_pause_resume_and_shutdown(minilm: Callable[[str], Path], tmp_path: Path) -> None:
    with running("--model", str(minilm("Q8_0")), home=tmp_path / "home") as daemon:
        known = daemon.embed("known")
        send(daemon, "pause")
        assert (daemon.embed("known") == known).all()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            daemon.embed("new")
        assert daemon.get("/health")[0] == 200, "a paused daemon is healthy"
        send(daemon, "resume")
        daemon.embed("new")
        send(daemon, "shutdown")
        assert daemon.process.wait(30) == 0
        daemon.wait_for("stopping: requests in flight are finished first")
