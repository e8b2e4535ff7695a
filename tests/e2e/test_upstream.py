"""A caching daemon in front of a computing one: real processes, killed, restarted, and with another model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.e2e.daemon import Daemon, cosines, running
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.slow

NAME = "tiny"
WAIT = 60.0
"""Longer than a daemon takes to start on a busy machine."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_qwen3(tmp_path / f"{NAME}.gguf")


@pytest.fixture
def port() -> int:
    """Return a port that upstream keeps across restarts."""
    return free_port()


@pytest.fixture
def computing(tmp_path: Path, model: Path, port: int) -> Callable[..., Any]:
    """Return a function that runs the upstream daemon, without a cache."""
    home = tmp_path / "computing" / "home"
    home.mkdir(parents=True)
    return lambda: running("--model", str(model), "--port", str(port), "--no-cache", home=home)


@pytest.fixture
def caching(tmp_path: Path, port: int) -> Callable[..., Any]:
    home = tmp_path / "caching" / "home"
    home.mkdir(parents=True)

    def run(*flags: str, named: bool = True, **more: Any) -> Any:
        name = ("--model", NAME) if named else ()
        return running("--upstream", f"http://127.0.0.1:{port}/v1", *name, *flags, home=home, **more)

    return run


def ask(daemon: Daemon, text: str) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"input": text}).encode()
    request = urllib.request.Request(f"{daemon.url}/v1/embeddings", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def upstream(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/v1/status")[1]["upstream"]
    return found


def wait_for(condition: Callable[[], bool], daemon: Daemon, seconds: float = WAIT) -> None:
    until(condition, seconds, lambda: daemon.log)


def test_vectors_are_upstreams_and_stay_available_without_it(
    computing: Callable[..., Any], caching: Callable[..., Any], tmp_path: Path
) -> None:
    texts = ["hello", "the rain falls", "Größe, цвет, 颜色"]
    with computing() as upstream_daemon:
        truth = upstream_daemon.embed(texts)
        with caching("--upstream-wait", "0.2", named=False) as daemon:
            rows = daemon.embed(texts)
            assert cosines(rows, truth).min() > 0.99999
            described = next(found for found in daemon.get("/v1/models")[1]["data"] if found["id"] == NAME)
            assert (described["type"], described["dimensions"]) == ("remote", truth.shape[1])
            assert daemon.get("/health")[0] == 200
            identity = upstream(daemon)["identity"]
            # With the daemon's folders: it recognises upstream by rows that it has stored, because upstream may batch the
            # same texts differently the second time, and rows that differ in the last bit have another digest.
            home = str(tmp_path / "caching" / "home")
            environment = {**os.environ, "EDGEEMBED_HOME": home, "EDGEEMBED_UPSTREAM": f"{upstream_daemon.url}/v1"}
            doctor = [sys.executable, "-m", "edgeembed", "doctor"]
            output = subprocess.run(doctor, env=environment, capture_output=True, text=True, timeout=120, check=False).stdout
            assert re.search(rf"ok +upstream: .*/v1 serves {NAME} with .*identity {identity[:12]}", output), output
            upstream_daemon.process.kill()
            upstream_daemon.process.wait(10)
            np.testing.assert_array_equal(daemon.embed(texts), rows)
            status, answer = ask(daemon, "never seen")
            assert status == 503 and "is unavailable" in answer["error"]["message"]
            assert daemon.get("/health")[0] == 503
            with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=30) as response:
                assert 'edgeembed_upstream_breaker{state="closed"}' not in response.read().decode()
            daemon.stop()
    # Upstream is still unavailable, and the cache survives the restart of this daemon.
    with caching("--upstream-wait", "0.2", named=False) as daemon:
        np.testing.assert_array_equal(daemon.embed(texts), rows)
        assert upstream(daemon)["identity"] == identity


def test_upstream_killed_and_restarted_under_load(computing: Callable[..., Any], caching: Callable[..., Any]) -> None:
    answered: list[tuple[list[str], npt.NDArray[np.float32]]] = []
    stop = threading.Event()

    def client(number: int, daemon: Daemon) -> None:
        turn = 0
        while not stop.is_set():
            texts = [f"client {number} turn {turn} text {n}" for n in range(1 + 4 * number)]
            answered.append((texts, daemon.embed(texts)))  # raises when it fails
            turn += 1

    with caching("--upstream-wait", str(WAIT), ready=False) as daemon, ThreadPoolExecutor(3) as threads:
        with computing() as first:
            daemon.wait_for("ready: ")
            clients = [threads.submit(client, number, daemon) for number in range(3)]
            wait_for(lambda: upstream(daemon)["requests"] > 10, daemon)
            first.process.kill()
        try:
            wait_for(lambda: upstream(daemon)["breaker"] != "closed", daemon)
            with computing() as second:
                wait_for(lambda: upstream(daemon)["breaker"] == "closed", daemon)
                seen = upstream(daemon)["texts"]
                wait_for(lambda: upstream(daemon)["texts"] > seen + 50, daemon)
                stop.set()
                for each in clients:
                    each.result(120)
                asked = [text for texts, _ in answered for text in texts]
                truth = np.concatenate([second.embed(asked[at : at + 256]) for at in range(0, len(asked), 256)])
        finally:
            stop.set()
    assert len(asked) > 50
    assert cosines(np.concatenate([rows for _, rows in answered]), truth).min() > 0.9999


def test_vectors_of_a_replaced_model_are_not_mixed(
    computing: Callable[..., Any], caching: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    texts = ["hello", "the rain falls"]
    with caching("--upstream-wait", str(WAIT), ready=False) as daemon:
        with computing() as first:
            daemon.wait_for("ready: ")
            old = first.embed(texts)
            assert cosines(daemon.embed(texts), old).min() > 0.99999
            before = upstream(daemon)["identity"]
        other = make_tiny_qwen3(tmp_path / "other.gguf", seed=1)
        shutil.move(other, model)
        with computing() as second:
            new = second.embed(texts)
            assert cosines(new, old).max() < 0.9
            # The request finds out, and is answered by the new model.
            assert cosines(daemon.embed(["a new text"]), second.embed(["a new text"])).min() > 0.99999
            daemon.wait_for("gives other vectors than before")
            # The first two are in the cache as rows of the other model.
            assert cosines(daemon.embed(texts), new).min() > 0.99999
            report = upstream(daemon)
            assert report["identity"] != before and report["changes"] == 1


def test_the_fallback_answers_if_it_is_the_same_model(
    computing: Callable[..., Any], caching: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    same = shutil.copy(model, tmp_path / "same.gguf")
    with computing() as upstream_daemon:
        truth = upstream_daemon.embed(["hello", "never seen"])
        with caching("--upstream-fallback", str(same)) as daemon:
            wait_for(lambda: upstream(daemon)["fallback"] == "same", daemon)
            upstream_daemon.process.kill()
            upstream_daemon.process.wait(10)
            assert cosines(daemon.embed(["hello", "never seen"]), truth).min() > 0.9999
            assert upstream(daemon)["fallback_texts"] == 2
            assert daemon.wait_until_ok()["mode"] == "local fallback"
            daemon.stop()


def test_a_different_model_is_not_used_as_fallback(
    computing: Callable[..., Any], caching: Callable[..., Any], tmp_path: Path
) -> None:
    other = make_tiny_qwen3(tmp_path / "other.gguf", seed=1)
    with computing() as upstream_daemon, caching("--upstream-fallback", str(other), "--upstream-wait", "0.2") as daemon:
        wait_for(lambda: upstream(daemon)["fallback"] == "different", daemon)
        upstream_daemon.process.kill()
        upstream_daemon.process.wait(10)
        status, answer = ask(daemon, "hello")
        assert status == 503 and "other vectors than upstream" in answer["error"]["message"]
