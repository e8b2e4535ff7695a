"""A model file whose bytes change on the disk of a running daemon: everybody is told, and a pull heals it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.e2e.daemon import post, running
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows: a file in use")]

SAID = "is damaged: its SHA-256 begins with "


def edgeembed(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEEMBED_HOME": str(home)}
    command = [sys.executable, "-m", "edgeembed", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_damaged_model_is_named_to_everybody_and_a_pull_heals_it(home: Path, minilm: Callable[[str], Path]) -> None:
    source = str(minilm("Q8_0"))
    assert edgeembed(home, "pull", source, "--name", "mine").returncode == 0
    [file] = home.glob("models/mine/*.gguf")
    with running("--model", "mine", "--no-cache", home=home) as daemon:
        before = daemon.embed("hello")
        status = file.stat()
        with file.open("r+b") as stream:  # as a failing disk does: size and modification time stay
            stream.seek(status.st_size // 2)
            stream.write(b"\xff" * 2**20)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        pid = daemon.worker_pid
        assert pid is not None
        psutil.Process(pid).kill()
        assert until(lambda: SAID in str(daemon.get("/health")[1].get("reason")), 60)
        assert daemon.get("/health")[0] == 503
        code, answer = post(daemon, "/v1/embeddings", input="hello")
        assert code == 503 and SAID in answer["error"]["message"]
        for command in (["doctor", "--model", "mine"], ["verify", "mine", "--offline"], ["pull", "mine"]):
            found = edgeembed(home, *command)
            assert found.returncode == 1 and SAID in found.stdout + found.stderr, command
            assert "uv sync" not in found.stdout + found.stderr, "llama.cpp is not to blame"
        assert edgeembed(home, "pull", source, "--name", "mine").returncode == 0
        assert until(lambda: post(daemon, "/v1/embeddings", input="hello")[0] == 200, 60)
        assert np.array_equal(daemon.embed("hello"), before)
        assert daemon.get("/health")[0] == 200
