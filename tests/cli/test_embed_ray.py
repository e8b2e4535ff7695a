"""`edgeembed embed --engine ray`: real workers of a local Ray cluster, with a real model."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.helpers import MAIN, edgeembed
from tests.engine.tiny_qwen3 import make_tiny_qwen3

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.model, pytest.mark.xdist_group("ray")]  # one cluster at a time

ROWS = 6000
SHARD = 200
WORKER = "ray::EngineWorker"
"""How Ray names the process of a worker."""


@pytest.fixture(autouse=True)
def ray() -> None:
    if importlib.util.find_spec("ray") is None:
        reason = "Ray is not installed (it is in the dev group, and in edgeembed[ray]): no workers to compute with"
        pytest.skip(reason)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A job's command line, without its output."""
    monkeypatch.setenv("EDGEEMBED_PORT", "1")
    monkeypatch.setenv("EDGEEMBED_FORWARD_KEY", "sesame")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    model = make_tiny_qwen3(tmp_path / "tiny.gguf")
    texts = tmp_path / "texts.txt"
    lines = [f"{row} " + "word " * (row % 7) for row in range(ROWS)]
    lines[700] = "x" * 2000  # longer than the model takes
    texts.write_text("\n".join(lines))
    return ["embed", str(texts), "--model", str(model), "--shard-rows", str(SHARD), "-o"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def test_two_workers_one_of_them_killed_give_what_a_single_process_gives(command: list[str], tmp_path: Path) -> None:
    for folder in ("alone", "two"):
        (tmp_path / folder).mkdir()
    alone = edgeembed(*command, str(tmp_path / "alone" / "v.npy"))
    assert alone.returncode == 3, alone.stderr  # one row is too long
    wanted = content(tmp_path / "alone")
    assert set(wanted) == {"v.npy", "v.ids.jsonl", "v.rejects.jsonl"}

    two = [*command, str(tmp_path / "two" / "v.npy"), "--engine", "ray", "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-c", MAIN, *two], stderr=subprocess.PIPE, text=True)
    try:
        killed = kill_a_worker(process, tmp_path / "two")
        _, told = process.communicate(timeout=180)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 3, told
    assert "computed by 2 workers on Ray" in told
    assert content(tmp_path / "two") == wanted
    assert not psutil.pid_exists(killed)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "".join(child.cmdline()).startswith(WORKER):
                    found.append(child)
    return found


def kill_a_worker(process: subprocess.Popen[str], folder: Path) -> int:
    """Kill one of the job's two workers once a shard is written, and return its process id."""
    until = time.monotonic() + 150
    found: list[Path] = []
    workers: list[psutil.Process] = []
    while not (found and len(workers) == 2) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)  # between two looks at processes and files, of which there is no event
        found, workers = list(folder.rglob("receipt-*.json")), workers_of(process)
    assert process.poll() is None, process.communicate()[1]
    assert all("sesame" not in worker.environ().values() for worker in workers), "keys stay in the command"
    assert found, "no shard was written"
    assert len(workers) == 2, "there was only one worker until the end"
    workers[0].kill()
    assert len(list(folder.rglob("receipt-*.json"))) < ROWS // SHARD, "the job was done before the kill"
    return workers[0].pid


def test_a_missing_cluster_is_an_error(command: list[str], tmp_path: Path) -> None:
    found = edgeembed(*command, str(tmp_path / "v.npy"), "--engine", "ray", "--ray-address", "127.0.0.1:1")
    assert found.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in found.stderr
