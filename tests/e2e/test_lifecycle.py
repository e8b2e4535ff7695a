"""Restarts, kills, crashes and signals, on the real daemon with the real MiniLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.e2e.daemon import cosines, running
from tests.e2e.texts import texts_of
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.waiting import until

pytestmark = pytest.mark.slow

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def gone(pid: int, seconds: float = 10) -> bool:
    """Wait for a process to exit; return whether it has."""
    return until(lambda: not psutil.pid_exists(pid), seconds)


def test_the_cache_survives_a_restart(home: Path, minilm: Callable[[str], Path]) -> None:
    texts = texts_of(1, 10)
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        first = daemon.embed(texts)
        assert daemon.get("/v1/status")[1]["engine"]["texts_computed"] == 10
        assert daemon.stop() == 0
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        second = daemon.embed(texts)
        status = daemon.get("/v1/status")[1]
        assert status["engine"]["texts_computed"] == 0
        assert status["cache"]["disk_hits"] == 10
    assert np.array_equal(first, second)
    # Other types of the model have other vectors, so the cache has none of them.
    with running("--model", str(minilm("F16")), home=home) as daemon:
        daemon.embed(texts)
        assert daemon.get("/v1/status")[1]["engine"]["texts_computed"] == 10


@posix_only
def test_a_worker_killed_under_load_is_restarted_and_no_request_fails(home: Path, minilm: Callable[[str], Path]) -> None:
    loads = {client: texts_of(client, 60) for client in range(8)}
    with running("--model", str(minilm("Q8_0")), "--no-cache", home=home) as daemon:
        expected = {client: daemon.embed(texts) for client, texts in loads.items()}
        kills = 0
        finished = threading.Event()

        def kill() -> None:
            nonlocal kills
            while not finished.wait(0.3) and kills < 4:
                engine = daemon.get("/v1/status")[1]["engine"]
                if engine["state"] == "ready" and engine["texts_waiting"]:
                    os.kill(engine["worker_pid"], signal.SIGKILL)
                    kills += 1

        killer = threading.Thread(target=kill)
        killer.start()

        def client(number: int) -> np.ndarray:
            texts = loads[number]
            return np.concatenate([daemon.embed(texts[at : at + 6]) for at in range(0, len(texts), 6)])

        with ThreadPoolExecutor(8) as pool:
            got = dict(zip(loads, pool.map(client, loads), strict=True))
        finished.set()
        killer.join()
        assert kills > 0
        for number in loads:
            assert cosines(expected[number], got[number]).min() > 0.999
        assert daemon.wait_until_ok()["mode"] == "cpu"
        assert daemon.process.poll() is None
        assert daemon.get("/v1/status")[1]["engine"]["restarts"] == kills


CRASH_IN_FIRST_MODE = """
import os, signal, sys
if "edgeembed.engine.worker.main" in sys.orig_argv and "cpu" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGILL)
"""


@posix_only
def test_a_worker_that_crashes_in_its_first_mode_is_replaced_by_one_in_the_next(
    home: Path, minilm: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "sitecustomize.py").write_text(CRASH_IN_FIRST_MODE)
    # With the folders that the tests have: `doctor` forgets what another build, with other kernels, has found.
    folders = [str(tmp_path / "crash"), *filter(None, [os.environ.get("PYTHONPATH")])]
    crash = {"PYTHONPATH": os.pathsep.join(folders)}
    model = str(minilm("Q8_0"))
    with running("--model", model, home=home, **crash) as daemon:
        assert daemon.embed("works").shape == (1, 384)
        status, health = daemon.get("/health")
        assert (status, health["mode"], health["demotions"][0]["mode"]) == (200, "cpu-plain", "cpu")
        assert "SIGILL" in health["demotions"][0]["reason"]
        assert "SIGILL" in daemon.log
    # The working mode is stored, so the next start does not crash. `doctor` prints the reason.
    with running("--model", model, home=home, **crash) as daemon:
        assert daemon.get("/health")[1]["mode"] == "cpu-plain"
        assert "worker in mode cpu ended" not in daemon.log
    doctor = [sys.executable, "-m", "edgeembed", "doctor", "--model", model, "--port", "9"]
    environment = {**os.environ, "EDGEEMBED_HOME": str(home)}
    output = subprocess.run(doctor, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout
    assert "mode cpu" in output and "SIGILL" in output and "mode cpu-plain" in output
    # After the cause has been fixed, one command restores the mode.
    output = subprocess.run(
        [*doctor, "--forget"], env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    assert "in mode cpu;" in output
    with running("--model", model, home=home) as daemon:
        assert daemon.get("/health")[1]["mode"] == "cpu"


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_finishes_running_requests_and_leaves_no_process(
    number: int, home: Path, minilm: Callable[[str], Path]
) -> None:
    # A busy machine may need more than the default grace period.
    with running("--model", str(minilm("Q8_0")), "--grace-period", "100", home=home) as daemon:
        worker = daemon.worker_pid
        assert worker
        texts = texts_of(3, 100, words=60)
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(daemon.embed, texts)
            while daemon.get("/v1/status")[1]["engine"]["texts_waiting"] == 0:
                assert not request.done()
            daemon.process.send_signal(number)
            assert request.result(100).shape == (100, 384)
        assert daemon.process.wait(20) == 0
        assert gone(worker)


@posix_only
def test_shutdown_ends_after_the_grace_period(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("F32")), "--grace-period", "0.2", "--no-cache", home=home) as daemon:
        worker = daemon.worker_pid
        texts = texts_of(4, 1500, words=60)
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(daemon.embed, texts)
            while daemon.get("/v1/status")[1]["engine"]["texts_waiting"] == 0:
                assert not request.done()
            assert daemon.stop() == 0
            assert request.exception(10) is not None
        assert worker and gone(worker)


@posix_only
def test_a_killed_daemon_leaves_no_worker(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        worker = daemon.worker_pid
        daemon.process.kill()
        assert worker and gone(worker)


def test_a_busy_port_is_a_clear_error(home: Path, minilm: Callable[[str], Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running("--model", str(minilm("Q8_0")), "--port", str(port), home=home, ready=False) as daemon:
            daemon.wait_for(rf"error: 127.0.0.1:{port} is in use")
            assert daemon.process.wait(10) == 2
            assert "Traceback" not in daemon.log


def test_health_is_starting_until_the_model_is_loaded(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("F32")), home=home, ready=False) as daemon:
        status, answer = daemon.get("/health")
        assert (status, answer["status"]) in ((503, "starting"), (200, "ok"))
        # Early requests wait.
        assert daemon.embed("early").shape == (1, 384)


def test_the_daemon_exits_with_the_reason_if_the_model_cannot_embed(home: Path, tmp_path: Path) -> None:
    path = make_tiny_qwen3(tmp_path / "generator.gguf", pooling=None)
    with running("--model", str(path), home=home, ready=False) as daemon:
        daemon.wait_for("cannot be served: .*pooling")
        assert daemon.process.wait(10) == 1
        assert "Traceback" not in daemon.log


def test_a_decoder_model_is_served(home: Path, tmp_path: Path) -> None:
    with running("--model", str(make_tiny_qwen3(tmp_path / "tiny.gguf")), "--batch-tokens", "64", home=home) as daemon:
        long = "many words " * 40
        rows = daemon.embed(["hello", long, "hello "])
        assert cosines(rows[:1], daemon.embed(["hello"])).min() > 0.9999
        assert np.isfinite(rows).all()


@posix_only
def test_a_disconnecting_client_frees_its_place(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("F32")), "--no-cache", home=home) as daemon:
        texts = texts_of(5, 2000, words=60)
        with pytest.raises(OSError, match="timed out"):
            daemon.embed(texts, seconds=1)
        until(lambda: daemon.get("/v1/status")[1]["engine"]["texts_waiting"] == 0)
        assert daemon.get("/v1/status")[1]["engine"]["texts_computed"] < 2000
