"""`edgeembed bench`: with a real daemon, with other servers, and when something ends early."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from edgeembed.common.trace import PARTS, STAGES
from edgeembed.diagnostics.bench.load import Client, LoadResult
from edgeembed.diagnostics.bench.run import Cell, CellResult, Runner
from edgeembed.diagnostics.bench.session import BenchPlan, ServerFacts, measure_url
from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.engine.llama.kernel_hook import PASS_PARTS, install_kernels
from edgeembed.errors import EngineError, EngineUnavailableError
from tests.cli.helpers import MAIN, edgeembed
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.signals import listening_to_sigint

pytestmark = pytest.mark.e2e

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

ServerMaker = Callable[[web.Application], Any]


class StandIn:
    """A server of another make that answers /v1/embeddings and records its requests."""

    def __init__(
        self, *, cache: str | None = None, most_words: int = 1000, models: list[dict[str, str]] | None = None
    ) -> None:
        """Prepare. cache: what it says in our header. most_words: a longer text is a 400. models: what /v1/models lists."""
        self.requests: list[tuple[dict[str, Any], str | None]] = []
        self.cache = cache
        self.most_words = most_words
        self.models = [{"id": "their-model"}] if models is None else models
        self.app = web.Application()
        self.app.router.add_post("/v1/embeddings", self.embeddings)
        self.app.router.add_get("/v1/models", self.list_models)

    @property
    def texts(self) -> list[str]:
        """All texts, in the order in which they came."""
        given = (body["input"] for body, _ in self.requests)
        return [text for each in given for text in ([each] if isinstance(each, str) else each)]

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((body, request.headers.get("Authorization")))
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if any(len(text.split()) > self.most_words for text in texts):
            return web.json_response({"error": {"message": "too many words"}}, status=400)
        data = [{"object": "embedding", "index": index, "embedding": [0.6, 0.8]} for index, _ in enumerate(texts)]
        usage = {"prompt_tokens": 3 * len(texts)}
        headers = {"X-Edgeembed-Cache": self.cache} if self.cache else None
        return web.json_response({"object": "list", "data": data, "usage": usage}, headers=headers)

    async def list_models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.models})


class Listener:
    """Records what a benchmark reports."""

    def __init__(self) -> None:
        self.sections: list[list[CellResult]] = []
        self.done = (0, 0)

    def server(self, machine: dict[str, str | int], info: ServerFacts) -> None:
        assert machine["processors"] and info.url

    def progress(self, done: int, total: int) -> None:
        self.done = (done, total)

    def section(self, _title: str, results: list[CellResult]) -> None:
        self.sections.append(results)


async def bench(*arguments: str) -> tuple[int | None, str, str]:
    """Run `edgeembed bench` and return exit status, standard output and standard error."""
    command = [sys.executable, "-c", MAIN, "bench", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out.decode(), err.decode()


# --- its own daemon ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.model
def test_a_separate_daemon_is_measured_and_stopped(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_qwen3(tmp_path / "tiny.gguf")
    monkeypatch.setenv("EDGEEMBED_CONTEXT_TOKENS", "300")
    done = edgeembed("bench", str(model), "--quick", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert "measurements of 1 s: about" in done.stderr
    report = json.loads(done.stdout)
    assert report["server"]["context_tokens"] == 300, "the settings in force hold for it, too"
    assert report["server"]["model"] == "tiny" and report["server"]["llama_cpp"].startswith("llama-cpp-python")
    assert report["daemon_peak_bytes"] > 2**20 and report["workers_peak_bytes"] > 2**20
    short = [result for result in report["results"] if result["words"] == 10]
    assert Counter((result["load"], result["repeated"]) for result in short) == Counter(
        (load, repeated) for load in ("1 client", "32 clients", "64 texts a request") for repeated in (False, True)
    )
    for result in short:
        assert result["note"] is None
        assert result["requests"] >= result["clients"] and result["texts_per_second"] > 0 and result["p50_ms"] > 0
    # The vocabulary consists of bytes, so a hundred words are too long for this model; the other lengths are measured.
    long = [result for result in report["results"] if result["words"] == 100]
    assert long and all("maximum context length is 300 tokens" in result["note"] for result in long)
    assert not (home / "cache").exists(), "the user's own cache was used"
    url = report["server"]["url"]
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(model) in (each.info["cmdline"] or [])], url


@pytest.mark.model
@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_daemon_behind(number: int, tmp_path: Path) -> None:
    model = make_tiny_qwen3(tmp_path / "tiny.gguf")
    command = [sys.executable, "-u", "-c", MAIN, "bench", str(model), "--seconds", "60", "--threads", "1"]
    with listening_to_sigint():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        process.stdout.readline()  # printed when the daemon is running
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2, "a daemon and its worker"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=10)
    finally:
        for each in (process, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    assert process.returncode == 130 and err.endswith("interrupted\n") and "Traceback" not in err
    assert not alive


def test_a_model_that_cannot_be_served_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(make_tiny_qwen3(tmp_path / "whole.gguf").read_bytes()[:-1000])
    done = edgeembed("bench", str(broken), "--quick")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the daemon to be measured did not start:" in done.stderr and "cannot be served" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the worker's file is mapped until it has ended")
def test_the_trace_of_a_daemon_has_every_stage_and_they_add_up(tmp_path: Path, home: Path) -> None:
    model = make_tiny_qwen3(tmp_path / "tiny.gguf")
    done = edgeembed("bench", str(model), "--trace", "--seconds", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {stage["stage"]: stage for stage in report["stages"]}
    assert [*found] == [stage for stage in STAGES if stage in found]
    assert {*STAGES} - {*found} <= {"queue", "wake the lane"}, "the reader computes a lone query itself"
    assert all(stage["share"] > 0 for stage in found.values())
    assert sum(stage["share"] for stage in found.values()) == pytest.approx(1.0, abs=1e-6)
    assert report["requests"] > 0
    parts = {part["stage"].removeprefix(PARTS): part["share"] for part in report["parts"]}
    assert {*parts} <= {*PASS_PARTS}
    assert (parts != {}) == install_kernels().ours  # only our kernels measure them
    assert sum(parts.values()) <= found["compute"]["share"]


def test_a_trace_is_of_a_daemon_of_its_own() -> None:
    done = edgeembed("bench", "--trace", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "leave --url out" in done.stderr


def test_without_a_model_it_asks_for_one() -> None:
    done = edgeembed("bench")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no model is configured; name one: edgeembed bench MODEL\n"


# --- servers of another make ------------------------------------------------------------------------------------------


async def test_a_foreign_server_gets_new_texts_its_model_name_and_its_key(
    aiohttp_server: ServerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeembed.diagnostics.bench.run.MAX_OVERRUN", math.inf)
    stand_in = StandIn()
    server: TestServer = await aiohttp_server(stand_in.app)
    loads = [{"clients": 1}, {"clients": 4}, {"texts": 64}]
    cells = [[Cell(10, **load, repeated=repeated) for load in loads] for repeated in (False, True)]
    what = BenchPlan(new=cells[0], repeated=cells[1], seconds=0.1, seed=7)
    heard = Listener()
    report = await measure_url(str(server.make_url("/v1")), what, heard, model=None, api_key="s3cret")
    assert report.server.model == "their-model" and report.daemon_peak_bytes is None
    assert [len(results) for results in heard.sections] == [3, 3] and heard.done == (6, 6)
    for result in report.results:
        assert result.note is None and result.requests >= result.clients and result.tokens_per_text == 3
    assert {key for _, key in stand_in.requests} == {"Bearer s3cret"}
    assert {body["model"] for body, _ in stand_in.requests} == {"their-model"}
    # Only the 64 texts of each repeated load were sent twice.
    often = [text for text, count in Counter(stand_in.texts).items() if count > 1]
    assert 0 < len(often) <= 3 * 64
    assert sum(len(text.split()) == 10 for text in set(stand_in.texts)) > len(often)


async def test_a_refused_length_is_noted_and_the_others_are_measured(aiohttp_server: ServerMaker) -> None:
    server: TestServer = await aiohttp_server(StandIn(most_words=50, models=[]).app)
    status, out, err = await bench("--url", str(server.make_url("/")), "--quick", "--seconds", "0.2")
    assert status == 0, err
    assert "100 words, 1 client: 400: too many words" in out
    rows = [line.split() for line in out.splitlines() if line.split()[:3] == ["10", "1", "client"]]
    assert len(rows) == 2 and all(float(row[-2].replace(",", "")) > 0 for row in rows)


async def test_a_missing_server_is_an_error_of_one_line(unused_tcp_port: int) -> None:
    status, out, err = await bench("--url", f"127.0.0.1:{unused_tcp_port}", "--quick")
    assert (status, out) == (1, "")
    assert f"error: http://127.0.0.1:{unused_tcp_port} does not answer" in err and "Traceback" not in err


# --- the parts --------------------------------------------------------------------------------------------------------


async def test_a_round_that_would_take_too_long_is_skipped(aiohttp_server: ServerMaker) -> None:
    stand_in = StandIn()
    async with Client(str((await aiohttp_server(stand_in.app)).make_url("/"))) as client:
        runner = Runner(client, TextMaker(1), 0.1, alone={400: 2.0})
        result = await runner.measure(Cell(400, texts=64))
    assert result.note == "skipped: one round would take up to 128 s"
    assert not stand_in.requests


async def test_a_cache_that_does_not_answer_is_noted(aiohttp_server: ServerMaker) -> None:
    async with Client(str((await aiohttp_server(StandIn(cache="miss").app)).make_url("/"))) as client:
        result = await Runner(client, TextMaker(1), 0.1).measure(Cell(10, repeated=True))
    assert result.note == "the cache did not answer (miss)" and result.texts_per_second is None


async def test_a_server_that_stops_ends_the_benchmark(aiohttp_server: ServerMaker) -> None:
    server: TestServer = await aiohttp_server(StandIn().app)
    async with Client(str(server.make_url("/"))) as client:
        runner = Runner(client, TextMaker(1), 0.1)
        assert (await runner.measure(Cell(10))).requests
        await server.close()
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            await runner.measure(Cell(10))


async def test_an_answer_with_too_few_rows_is_an_error(aiohttp_server: ServerMaker) -> None:
    async def one_row(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"embedding": [1.0]}]})

    app = web.Application()
    app.router.add_post("/v1/embeddings", one_row)
    async with Client(str((await aiohttp_server(app)).make_url("/"))) as client:
        with pytest.raises(EngineError, match="1 rows for 2 texts"):
            await client.ask(["a", "b"])


async def test_an_error_is_shown_by_its_message_whatever_its_body(aiohttp_server: ServerMaker) -> None:
    bodies = [b'{"error":{"message":"no memory"}}', b'{"error":' + b"[" * 1020 + b"]" * 1020 + b"}", b"<html>"]

    async def fail(_request: web.Request) -> web.Response:
        return web.Response(body=bodies.pop(0), status=500)

    app = web.Application()
    app.router.add_post("/v1/embeddings", fail)
    async with Client(str((await aiohttp_server(app)).make_url("/"))) as client:
        for message in ("no memory", "status 500", "status 500"):
            with pytest.raises(EngineError, match=f"^500: {message}$"):
                await client.ask(["a"])


def test_percentiles_are_by_nearest_rank_and_need_enough_requests() -> None:
    load = LoadResult([float(number) for number in range(1, 201)], texts=200, seconds=2.0, client_seconds=0.1)
    assert [load.percentile(percent) for percent in (50, 90, 99)] == [100.0, 180.0, 198.0]
    assert load.texts_per_second == 100.0
    few = LoadResult([1.0, 2.0, 3.0], texts=3, seconds=1.0, client_seconds=0.0)
    assert [few.percentile(percent) for percent in (50, 90, 99)] == [2.0, None, None]


def test_texts_never_repeat_even_with_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeembed.diagnostics.bench.texts._VOCABULARY", tuple("abcdefgh"))
    texts = TextMaker(1).texts(8**3, 3)
    assert len(set(texts)) == 8**3


def test_the_seed_determines_the_texts() -> None:
    one, same, other = TextMaker(1), TextMaker(1), TextMaker(2)
    texts = one.texts(100, 10) + one.texts(10, 400)
    assert [len(text.split()) for text in texts] == [10] * 100 + [400] * 10
    assert same.texts(100, 10) == texts[:100]
    assert not set(other.texts(100, 10)) & set(one.texts(100, 10))
