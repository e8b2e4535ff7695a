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

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def gone(pid: int, seconds: float = 10) -> bool:
    """Wait for a process to end."""
    return until(lambda: not psutil.pid_exists(pid), seconds)


def test_a_second_identical_request_is_answered_from_the_cache_after_a_restart(
    home: Path, minilm: Callable[[str], Path]
) -> None:
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
    # Another type of the same model is another space: nothing of it comes from that cache.
    with running("--model", str(minilm("F16")), home=home) as daemon:
        daemon.embed(texts)
        assert daemon.get("/v1/status")[1]["engine"]["texts_computed"] == 10


@posix_only
def test_a_worker_killed_under_load_returns_and_every_request_gets_its_vector(
    home: Path, minilm: Callable[[str], Path]
) -> None:
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


CRASH_ON_FIRST_RUNG = """
import os, signal, sys
if "edgeembed.engine.worker.main" in sys.orig_argv and "cpu" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGILL)
"""


@posix_only
def test_a_worker_that_crashes_on_its_first_rung_serves_one_rung_lower_and_says_why(
    home: Path, minilm: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "sitecustomize.py").write_text(CRASH_ON_FIRST_RUNG)
    crash = {"PYTHONPATH": str(tmp_path / "crash")}
    model = str(minilm("Q8_0"))
    with running("--model", model, home=home, **crash) as daemon:
        assert daemon.embed("works").shape == (1, 384)
        status, health = daemon.get("/health")
        assert (status, health["mode"], health["demotions"][0]["mode"]) == (200, "cpu-plain", "cpu")
        assert "SIGILL" in health["demotions"][0]["reason"]
        assert "SIGILL" in daemon.log
    # The mode that worked is remembered: the next start does not crash first. `doctor` tells why.
    with running("--model", model, home=home, **crash) as daemon:
        assert daemon.get("/health")[1]["mode"] == "cpu-plain"
        assert "worker in mode cpu ended" not in daemon.log
    doctor = [sys.executable, "-m", "edgeembed", "doctor", "--model", model, "--port", "9"]
    environment = {**os.environ, "EDGEEMBED_HOME": str(home)}
    said = subprocess.run(doctor, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout
    assert "mode cpu" in said and "SIGILL" in said and "mode cpu-plain" in said
    # When the cause is gone, one command gives the mode back.
    said = subprocess.run(
        [*doctor, "--forget"], env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    assert "in mode cpu;" in said
    with running("--model", model, home=home) as daemon:
        assert daemon.get("/health")[1]["mode"] == "cpu"


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_in_flight_and_leaves_no_process(
    number: int, home: Path, minilm: Callable[[str], Path]
) -> None:
    # A machine with other work may need more than the usual grace.
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
def test_the_grace_period_ends(home: Path, minilm: Callable[[str], Path]) -> None:
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
def test_a_killed_daemon_leaves_no_worker_behind(home: Path, minilm: Callable[[str], Path]) -> None:
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


def test_health_says_starting_until_the_model_is_there(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("F32")), home=home, ready=False) as daemon:
        status, answer = daemon.get("/health")
        assert (status, answer["status"]) in ((503, "starting"), (200, "ok"))
        # A request that comes too early waits.
        assert daemon.embed("early").shape == (1, 384)


def test_a_model_that_cannot_embed_ends_the_daemon_with_the_reason(home: Path, tmp_path: Path) -> None:
    path = make_tiny_qwen3(tmp_path / "generator.gguf", pooling=None)
    with running("--model", str(path), home=home, ready=False) as daemon:
        daemon.wait_for("cannot be served: .*pooling")
        assert daemon.process.wait(10) == 1
        assert "Traceback" not in daemon.log


def test_a_decoder_model_is_served_too(home: Path, tmp_path: Path) -> None:
    with running("--model", str(make_tiny_qwen3(tmp_path / "tiny.gguf")), "--batch-tokens", "64", home=home) as daemon:
        long = "many words " * 40
        rows = daemon.embed(["hello", long, "hello "])
        assert cosines(rows[:1], daemon.embed(["hello"])).min() > 0.9999
        assert np.isfinite(rows).all()


@posix_only
def test_a_client_that_hangs_up_frees_its_place(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("F32")), "--no-cache", home=home) as daemon:
        texts = texts_of(5, 2000, words=60)
        with pytest.raises(OSError, match="timed out"):
            daemon.embed(texts, seconds=1)
        until(lambda: daemon.get("/v1/status")[1]["engine"]["texts_waiting"] == 0)
        assert daemon.get("/v1/status")[1]["engine"]["texts_computed"] < 2000
