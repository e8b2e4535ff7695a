"""Orders to the real daemon: it pauses, resumes, and ends when a request asks it to."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running


def order(daemon: Daemon, what: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{daemon.url}/v1/admin/{what}", b""), timeout=30) as response:
        assert response.status == 200


def test_pause_resume_and_shutdown(minilm: Callable[[str], Path], tmp_path: Path) -> None:
    with running("--model", str(minilm("Q8_0")), home=tmp_path / "home") as daemon:
        known = daemon.embed("known")
        order(daemon, "pause")
        assert (daemon.embed("known") == known).all()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            daemon.embed("new")
        assert daemon.get("/health")[0] == 200, "a paused daemon is well"
        order(daemon, "resume")
        daemon.embed("new")
        order(daemon, "shutdown")
        assert daemon.process.wait(30) == 0
        daemon.wait_for("stopping: requests in flight are finished first")
