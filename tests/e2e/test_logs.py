"""The logs of a real daemon: no texts, and the ids of requests."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.e2e.daemon import Daemon, running
from tests.e2e.models import install

MARK = "xyzzyplugh"
"""Part of every text that is sent."""


def post(daemon: Daemon, path: str, body: object, request_id: str = "") -> int:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | ({"x-request-id": request_id} if request_id else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(daemon.url + path, raw, headers), timeout=120) as response:
            response.read()
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("format_", ["text", "json"])
def test_texts_are_never_logged(home: Path, minilm: Callable[[str], Path], tmp_path: Path, format_: str) -> None:
    make_tiny_cross_encoder(tmp_path / "ranker")
    convert_checkpoint(tmp_path / "ranker", tmp_path / "ranker.gguf", quantization="F32", license="Apache-2.0")
    install(home, "all-minilm-l6-v2", "Q8_0", minilm("Q8_0"))
    install(home, "tiny-ranker", "F32", tmp_path / "ranker.gguf")
    flags = ("--model", "all-minilm-l6-v2", "--log-level", "debug", "--log-format", format_)
    with running(*flags, home=home, ready=False) as daemon:
        daemon.wait_for("ready: ")
        answers = {
            path: post(daemon, path, body)
            for path, body in {
                "/v1/embeddings": {"input": [f"{MARK} one", f"{MARK} two"], "input_type": "query"},
                "/v1/rerank": {"query": f"{MARK}?", "documents": [f"{MARK} three"]},
                "/api/embed": {"input": f"{MARK} four"},
                "/embed": {"inputs": f"{MARK} five"},
                "/v2/embed": {"texts": [f"{MARK} six"], "input_type": "search_document", "embedding_types": ["float"]},
            }.items()
        }
        assert set(answers.values()) == {200}, answers
        assert post(daemon, "/v1/embeddings", {"input": f"{MARK} " * 600}) == 400
        assert post(daemon, "/v1/embeddings", {"input": [f"{MARK}", 7]}) == 400
        assert post(daemon, "/v1/embeddings", b'{"input": "' + MARK.encode()) == 400
        assert post(daemon, "/v1/embeddings", {"input": "x", "instruction": MARK, "model": "nope"}) == 404
        pid = daemon.worker_pid
        if sys.platform != "win32" and pid is not None:
            os.kill(pid, signal.SIGSEGV)  # its last output is logged
            daemon.wait_for("ended by SIGSEGV")
            assert post(daemon, "/v1/embeddings", {"input": f"{MARK} seven"}) == 200
        assert daemon.stop() == 0
    assert "POST /v1/embeddings 200" in daemon.log and "POST /v1/embeddings 400" in daemon.log
    assert MARK not in daemon.log
    for file in home.rglob("*"):
        assert not file.is_file() or MARK.encode() not in file.read_bytes(), file
    if format_ == "json":
        lines = [json.loads(line) for line in daemon.lines]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        answered = [line for line in lines if line["message"].startswith("POST /")]
        assert len({line["request_id"] for line in answered}) == len(answered)


def test_all_lines_of_a_request_have_its_id(home: Path, minilm: Callable[[str], Path], tmp_path: Path) -> None:
    make_tiny_cross_encoder(tmp_path / "ranker")
    convert_checkpoint(tmp_path / "ranker", tmp_path / "ranker.gguf", quantization="F32", license="Apache-2.0")
    install(home, "tiny-ranker", "F32", tmp_path / "ranker.gguf")
    flags = ("--model", str(minilm("Q8_0")), "--log-level", "debug", "--log-format", "json", "--keep-alive", "0")
    with running(*flags, home=home, ready=False) as daemon:
        daemon.wait_for("ready: ")
        assert post(daemon, "/v1/rerank", {"query": "a", "documents": ["b"]}, request_id="my-own.id") == 200
        daemon.wait_for("unloading tiny-ranker:F32")
        assert post(daemon, "/v1/embeddings", {"input": "x"}) == 200
        assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.lines]
    of = {line["message"]: line.get("request_id") for line in lines}
    caused = {message for message, id_ in of.items() if id_ == "my-own.id"}
    assert any(message.startswith("loaded tiny-ranker:F32") for message in caused), "the pool's line"
    assert any(message.startswith("worker ready in mode") for message in caused), "the supervisor's line"
    assert any(message.startswith("POST /v1/rerank 200") for message in caused)
    (other,) = [id_ for message, id_ in of.items() if message.startswith("POST /v1/embeddings")]
    assert re.fullmatch("[0-9a-f]{32}", str(other))
    assert of[next(message for message in of if message.startswith("ready: "))] is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--api-key-file", "missing"), "cannot read the API keys"),
        (("--port", "70000"), "70000"),
        (("--api-key", " "), "a space"),
    ],
)
def test_what_is_wrong_at_the_start_is_json_too(home: Path, flags: tuple[str, str], said: str) -> None:
    with running("--log-format", "json", *flags, home=home, ready=False, EDGEEMBED_NOSUCH="1") as daemon:
        daemon.wait_for('"message":"error: ')
        assert daemon.process.wait(60) == 2
    warning, error = map(json.loads, daemon.lines)
    assert "EDGEEMBED_NOSUCH is not a setting" in warning["message"]
    assert error["message"].startswith("error: ") and said in error["message"]
