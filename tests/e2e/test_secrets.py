"""API keys and tokens stay in the daemon: no process that it starts gets them, and files that hold them are noticed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.daemon import running

SECRETS = {
    "EDGEEMBED_API_KEY": "canary-api",
    "EDGEEMBED_FORWARD_KEY": "canary-forward",
    "HF_TOKEN": "canary-hub",
    "HUGGING_FACE_HUB_TOKEN": "canary-old-hub",
    "OPENAI_API_KEY": "canary-openai",
    "LLAMA_API_KEY": "canary-llama",
    "NVIDIA_API_KEY": "canary-nvidia",
    "CUDA_AUTH_TOKEN": "canary-cuda",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "HTTPS_PROXY": "http://user:canary-proxy@127.0.0.1:9",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals and environments of POSIX")
def test_no_process_of_the_daemon_gets_a_secret(home: Path, minilm: Callable[[str], Path], tmp_path: Path) -> None:
    """Also the process that lists the devices, which loads llama.cpp and drivers: `nvidia-smi` here, and what it starts."""
    tools, seen = tmp_path / "tools", tmp_path / "seen"
    tools.mkdir()
    fake = tools / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\nenv > '{seen}'\nexit 1\n")
    fake.chmod(0o755)
    variables = {
        **SECRETS,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "OMP_PROC_BIND": "false",
        "LC_ALL": "C.UTF-8",
    }
    flags = ("--model", str(minilm("Q8_0")), "--forward", "http://127.0.0.1:9/v1", "--offline")
    with running(*flags, home=home, **variables) as daemon:
        children = psutil.Process(daemon.process.pid).children(recursive=True)
        assert any("edgeembed.engine.worker.main" in child.cmdline() for child in children)
        for child in children:
            environ, command = child.environ(), child.cmdline()
            assert "canary" not in str(environ) + str(command), child
            assert {"PATH", "OMP_PROC_BIND", "LC_ALL", "GGML_NO_BACKTRACE"} <= environ.keys(), "what it needs, it gets"
        assert daemon.stop() == 0
    if shutil.which("nvidia-smi") is None and seen.exists():
        assert "canary" not in seen.read_text()
    assert "canary" not in daemon.log


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_file_with_keys_that_others_can_read_is_a_warning(
    home: Path, minilm: Callable[[str], Path], tmp_path: Path
) -> None:
    keys = tmp_path / "my keys"
    keys.write_text("ide: sesame\n")
    keys.chmod(0o644)
    flags = ("--model", str(minilm("Q8_0")), "--api-key-file", str(keys))
    with running(*flags, home=home, ready=False) as daemon:
        daemon.wait_for(f"other users of this machine can read {keys}, which holds a secret: chmod 600 '{keys}'")
    keys.chmod(0o600)
    with running(*flags, home=home, ready=False) as daemon:
        daemon.wait_for("listens on")
        assert "other users" not in daemon.log
