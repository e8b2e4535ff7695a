"""Several models on the real daemon: two embedders and a reranker under load, reloaded, within a memory budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.e2e.daemon import Daemon, cosines, post, running
from tests.e2e.models import install
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.waiting import until

pytestmark = pytest.mark.slow

QUERY = "is it raining"
DOCUMENTS = ["the rain falls", "a dry desert", "umbrella", "it is raining hard"]


@pytest.fixture
def installed(home: Path, minilm: Callable[[str], Path], tmp_path: Path) -> Path:
    """Install all-minilm-l6-v2, a tiny Qwen3 embedder and a tiny cross-encoder, as `pull` does."""
    decoder = make_tiny_qwen3(tmp_path / "decoder.gguf")
    make_tiny_cross_encoder(tmp_path / "ranker")
    ranker = tmp_path / "ranker.gguf"
    convert_checkpoint(tmp_path / "ranker", ranker, quantization="F32", license="Apache-2.0")
    for name, type_, file in [
        ("all-minilm-l6-v2", "Q8_0", minilm("Q8_0")),
        ("tiny-decoder", "F32", decoder),
        ("tiny-ranker", "F32", ranker),
    ]:
        install(home, name, type_, file)
    return home


def scores(daemon: Daemon) -> list[float]:
    status, answer = post(daemon, "/v1/rerank", model="tiny-ranker", query=QUERY, documents=DOCUMENTS)
    assert status == 200, answer
    return [item["relevance_score"] for item in sorted(answer["results"], key=lambda item: item["index"])]


def loaded(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in daemon.get("/v1/status")[1]["models"]}


def test_two_embedders_and_a_reranker_at_the_same_time(installed: Path) -> None:
    with running("--model", "all-minilm-l6-v2", "--no-cache", home=installed) as daemon:
        expected = {
            "all-minilm-l6-v2": daemon.embed(DOCUMENTS, model="all-minilm-l6-v2"),
            "tiny-decoder": daemon.embed(DOCUMENTS, model="tiny-decoder"),
        }
        assert {name: rows.shape[1] for name, rows in expected.items()} == {"all-minilm-l6-v2": 384, "tiny-decoder": 64}
        ranking = scores(daemon)
        assert all(0 <= score <= 1 for score in ranking) and len(set(ranking)) == len(DOCUMENTS)

        def client(number: int) -> None:
            for _ in range(15):
                for model in expected:
                    assert cosines(daemon.embed(DOCUMENTS, model=model), expected[model]).min() > 0.999, number
                assert np.allclose(scores(daemon), ranking, atol=1e-3)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(client, range(6)))
        assert set(loaded(daemon)) == {"all-minilm-l6-v2", "tiny-decoder", "tiny-ranker"}
        # A model with the wrong task is an error, and keeps working.
        assert post(daemon, "/v1/embeddings", input="x", model="tiny-ranker")[1]["error"]["code"] == "wrong_task"
        assert post(daemon, "/v1/rerank", query="x", documents=["y"], model="tiny-decoder")[0] == 400
        assert daemon.get("/health")[0] == 200


def test_models_are_reloaded_during_requests(installed: Path) -> None:
    """keep_alive 0: almost every request finds its model unloaded or unloading."""
    flags = ("--model", "all-minilm-l6-v2", "--keep-alive", "0", "--no-cache")
    with running(*flags, home=installed) as daemon:
        decoder, ranking = daemon.embed(DOCUMENTS, model="tiny-decoder"), scores(daemon)

        def client(number: int) -> None:
            for _ in range(4):
                assert cosines(daemon.embed(DOCUMENTS, model="tiny-decoder"), decoder).min() > 0.999
                assert np.allclose(scores(daemon), ranking, atol=1e-3)
                time.sleep(0.05 * number)  # so that clients find the models in all states

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(client, range(3)))
        until(lambda: set(loaded(daemon)) == {"all-minilm-l6-v2"})
        assert daemon.log.count("unloading tiny-decoder:F32: idle") >= 2
        children = psutil.Process(daemon.process.pid).children(recursive=True)
        assert len(children) == 1, "the processes of unloaded models have ended"


def test_the_memory_budget_is_respected(installed: Path) -> None:
    """Three models with a budget for two."""
    with running("--model", "all-minilm-l6-v2", "--no-cache", home=installed) as daemon:
        one = loaded(daemon)["all-minilm-l6-v2"]["memory_bytes"]
    budget = int(2.6 * one / 2**20)
    flags = ("--model", "all-minilm-l6-v2", "--memory-budget-mib", str(budget), "--no-cache")
    with running(*flags, home=installed) as daemon:
        daemon_process = psutil.Process(daemon.process.pid)
        most, finished = 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not finished.wait(0.02):
                most = max(most, sum(resident(child) for child in daemon_process.children(recursive=True)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        expected = daemon.embed(DOCUMENTS, model="all-minilm-l6-v2")

        def client(number: int) -> None:
            for turn in range(6):
                match (number + turn) % 3:
                    case 0:
                        assert cosines(daemon.embed(DOCUMENTS, model="all-minilm-l6-v2"), expected).min() > 0.999
                    case 1:
                        assert daemon.embed(DOCUMENTS, model="tiny-decoder").shape == (4, 64)
                    case 2:
                        assert len(scores(daemon)) == 4

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(client, range(3)))
        finished.set()
        watcher.join()
        assert "needs its memory" in daemon.log
        status = daemon.get("/v1/status")[1]["memory"]
        assert status["used_bytes"] <= status["budget_bytes"] == budget * 2**20
        assert most <= budget * 2**20, "the highest sample"


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def test_a_model_that_cannot_be_loaded_does_not_affect_others(installed: Path, tmp_path: Path) -> None:
    install(installed, "generator", "F32", make_tiny_qwen3(tmp_path / "generator.gguf", pooling=None))
    with running("--model", "all-minilm-l6-v2", "--preload", "generator", home=installed) as daemon:
        daemon.wait_for("'generator' cannot be served")
        status, answer = post(daemon, "/v1/embeddings", input="x", model="generator")
        assert status == 503 and "pooling" in answer["error"]["message"]
        assert daemon.embed("x").shape == (1, 384)
        status, health = daemon.get("/health")
        assert status == 200 and "pooling" in health["failed_models"]["generator:F32"]


@pytest.mark.slow
def test_aliases_prompts_and_models_installed_while_it_runs(installed: Path, tmp_path: Path) -> None:
    (installed / "config.toml").write_text(
        'model = "all-minilm-l6-v2"\npreload = ["tiny-decoder"]\n'
        '[aliases]\ntext-embedding-3-small = "tiny-decoder"\n[keep_alive_of]\ntiny-decoder = "1h"\n'
    )
    with running(home=installed) as daemon:
        until(lambda: loaded(daemon).get("tiny-decoder", {}).get("state") == "ready")
        assert loaded(daemon)["tiny-decoder"]["keep_alive_seconds"] == 3600
        assert loaded(daemon)["all-minilm-l6-v2"]["keep_alive_seconds"] is None
        assert daemon.embed("x", model="text-embedding-3-small").shape == (1, 64)
        assert daemon.embed("x", model="text-embedding-3-small:document").shape == (1, 64)
        status, answer = post(daemon, "/v1/embeddings", input="x", model="latecomer")
        assert status == 404 and "latecomer" in answer["error"]["message"]
        install(installed, "latecomer", "F32", make_tiny_qwen3(tmp_path / "late.gguf", seed=3))
        until(lambda: post(daemon, "/v1/embeddings", input="x", model="latecomer")[0] == 200)
        names = {model["id"] for model in daemon.get("/v1/models")[1]["data"]}
        assert {"all-minilm-l6-v2", "tiny-decoder", "text-embedding-3-small", "tiny-ranker", "latecomer:F32"} <= names


def test_the_cache_answers_for_unloaded_models(installed: Path) -> None:
    with running("--model", "all-minilm-l6-v2", "--keep-alive", "0", home=installed) as daemon:
        first = daemon.embed(DOCUMENTS, model="tiny-decoder")
        until(lambda: "tiny-decoder" not in loaded(daemon))
        assert np.array_equal(daemon.embed(DOCUMENTS, model="tiny-decoder"), first)
        assert daemon.log.count("loaded tiny-decoder:F32") == 1


def test_a_replaced_model_file_is_reloaded_with_its_own_digest(home: Path, tmp_path: Path) -> None:
    file = make_tiny_qwen3(tmp_path / "model.gguf")
    with running("--model", str(file), "--keep-alive-of", "model=0", home=home) as daemon:
        before = daemon.embed(DOCUMENTS)
        until(lambda: not loaded(daemon))
        make_tiny_qwen3(file, seed=1)
        until(lambda: post(daemon, "/v1/embeddings", input="something new")[0] == 200)
        after = daemon.embed(DOCUMENTS)
        assert cosines(before, after).max() < 0.9, "no rows of the old file"
