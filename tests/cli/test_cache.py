"""`edgeembed cache`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from aiohttp import web
from click.testing import CliRunner

from edgeembed.cache import KeyMaker, VectorCache
from edgeembed.cache.disk import DATABASE, DiskItem
from edgeembed.cache.rows import CachedRow, encode_row
from edgeembed.cache.transfer import export_rows
from edgeembed.cli.cache import cache
from edgeembed.client import ask
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Float32Row, Row
from edgeembed.errors import CacheFileError, ConfigError, EdgeEmbedError
from edgeembed.hub.catalogue import Prompts
from edgeembed.hub.store import Store
from edgeembed.models.served_model import served
from edgeembed.runtime.models import ConfiguredModels
from edgeembed.runtime.service import make_service
from edgeembed.server.app import make_app
from edgeembed.server.ops import admin
from tests.cli.helpers import install
from tests.fakes import FakeEngine, fake_packed_row, fake_service
from tests.waiting import until_async

KEYS = KeyMaker("5" * 64, "embed")
NO_DAEMON = ("--port", "1")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


def daemons_cache() -> VectorCache:
    """The cache that `serve` would use."""
    model = Store(Paths.resolve()).find("alpha") or install("alpha", "F32")
    found = make_service(Settings(), Paths.resolve(), ConfiguredModels(served(model))).cache
    assert found is not None
    return found


def row_of(number: int) -> Float32Row:
    """Return a row that begins with a number."""
    row = np.full(384, number, np.float32)
    row[-1] = 1.0  # zeros alone are no vector
    return row


async def fill(target: VectorCache, count: int, model: str = "alpha:F32@5555") -> None:
    """Store rows of a model, each computed in 10 ms, and look up the first ten again."""
    await target.open()
    for number in range(count):
        target.put(KEYS.key(model, str(number)), Row(row_of(number), 3), model, seconds=0.01)
    keys = [KEYS.key(model, str(number)) for number in range(count)]
    await target.get_many([*keys[:10], KEYS.key(model, "nobody")], model)
    await target.close()


async def numbers_of(model: str, count: int) -> list[float]:
    """Return the first number of each row that is found."""
    there = daemons_cache()
    await there.open()
    found = await there.get_many([KEYS.key(model, str(number)) for number in range(count)])
    await there.close()
    return sorted(float(row.vector[0]) for row in found.values())


@contextlib.contextmanager
def daemon(engine: FakeEngine) -> Iterator[int]:
    """Run a server with a fake engine and the cache that `serve` would use in a thread, and yield its port."""
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        prompts = Prompts(query="query: {text}", document="{text}")
        app = make_app(fake_service(engine, daemons_cache(), prompts=prompts, outputs=("dense", "multi", "sparse")))
        admin.add_to(app, lambda: None)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        yield runner.addresses[0][1]
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def stats_of(run: CliRunner, *flags: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(run.invoke(cache, ["stats", "--json", *(flags or NO_DAEMON)]).output)
    return found


def test_stats_show_vectors_and_hits_by_model(run: CliRunner) -> None:
    asyncio.run(fill(daemons_cache(), 300))
    asyncio.run(fill(daemons_cache(), 20, "beta:Q8_0@7777"))
    found = stats_of(run)
    assert (found["folder"], found["entries"], found["daemon"]) == (run.invoke(cache, ["path"]).output.strip(), 320, None)
    models = {model["model"]: model for model in found["models"]}  # type: ignore[attr-defined]
    alpha = models["alpha:F32"]
    assert (alpha["digest"], alpha["entries"], alpha["hits"], alpha["misses"]) == ("5555", 300, 10, 1)
    assert alpha["hit_rate"] == pytest.approx(10 / 11) and alpha["saved_seconds"] == pytest.approx(0.1)
    assert models["beta:Q8_0"]["entries"] == 20 and alpha["oldest"] <= alpha["newest"]
    printed = run.invoke(cache, ["stats", *NO_DAEMON]).output
    assert "320 vectors" in printed and "90.9%" in printed and "beta:Q8_0" in printed


def test_clear_removes_everything_or_one_model(run: CliRunner) -> None:
    asyncio.run(fill(daemons_cache(), 50))
    asyncio.run(fill(daemons_cache(), 20, "beta:Q8_0@7777"))
    with pytest.raises(ConfigError, match=r"no vectors of 'gamma'; it has those of: alpha:F32, beta:Q8_0"):
        run.invoke(cache, ["clear", "--model", "gamma", *NO_DAEMON])
    assert run.invoke(cache, ["clear", "--model", "Beta", *NO_DAEMON]).output == "removed 20 vectors\n"
    assert stats_of(run)["entries"] == 50
    assert run.invoke(cache, ["clear", *NO_DAEMON]).output == "removed 50 vectors\n"
    assert stats_of(run)["entries"] == 0


def test_a_running_daemon_clears_its_cache_itself(run: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(daemons_cache(), 50))
    engine = FakeEngine()
    with daemon(engine) as port:
        flags = ("--port", str(port))

        def ask(text: str) -> None:
            body = json.dumps({"input": text}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/embeddings", body)
            with urllib.request.urlopen(request, timeout=30) as response:
                response.read()

        for _ in range(2):
            ask("known")
        assert engine.computed.count("known") == 1
        assert run.invoke(cache, ["clear", *flags]).output == "removed 51 vectors\n"
        assert stats_of(run, *flags)["daemon"]["memory_entries"] == 0  # type: ignore[index]
        ask("known")
        assert engine.computed.count("known") == 2
        with pytest.raises(ConfigError, match=r"no vectors of 'gamma'; it has those of: fake-model"):
            run.invoke(cache, ["clear", "--model", "gamma", *flags])
        monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path / "another"))
        output = run.invoke(cache, ["clear", *flags]).output
        assert "is not changed" in output and output.endswith("removed 0 vectors\n")
        ask("known")
        assert engine.computed.count("known") == 2


async def test_a_refusing_daemon_notices_that_the_disk_was_cleared(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeembed.cache.background_disk.FLUSH_SECONDS", 0.01)
    running = daemons_cache()
    await running.open()
    key = KEYS.key("{text}", "1")
    running.put(key, Row(np.ones(384, np.float32), 3), "alpha:F32@5555")
    await until_async(lambda: not running.stats.rows_to_write)
    assert (await asyncio.to_thread(run.invoke, cache, ["clear", *NO_DAEMON])).output == "removed 1 vectors\n"
    async with asyncio.timeout(10):
        while await running.get_many([key]):  # its memory is cleared as well
            await asyncio.sleep(0.01)  # until it looks at its file's generation again
    running.put(key, Row(np.ones(384, np.float32), 3))
    await running.close()
    assert running.stats.disk_problem is None
    assert (await asyncio.to_thread(run.invoke, cache, ["clear", *NO_DAEMON])).output == "removed 1 vectors\n"


def test_stats_remove_nothing_even_with_a_lower_limit(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(daemons_cache(), 2000))
    monkeypatch.setenv("EDGEEMBED_CACHE_DISK_MIB", "0")
    for _ in range(2):
        assert stats_of(run)["entries"] == 2000


def test_stats_without_a_cache(run: CliRunner) -> None:
    assert "0 vectors" in run.invoke(cache, ["stats", *NO_DAEMON]).output


def test_a_cache_that_cannot_be_opened_is_an_error(run: CliRunner, home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    for command in (["stats", *NO_DAEMON], ["clear", *NO_DAEMON]):
        with pytest.raises(ConfigError, match="cannot open the cache"):
            run.invoke(cache, command)
    assert run.invoke(cache, ["path"]).output.startswith(str(home / "cache"))


# --- export and import ----------------------------------------------------------------------------------------------------


def test_rows_are_transferred_to_another_machine(run: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(daemons_cache(), 300))
    asyncio.run(fill(daemons_cache(), 20, "beta:Q8_0@7777"))
    file, one = tmp_path / "all.cache", tmp_path / "beta.cache"
    assert run.invoke(cache, ["export", str(file)]).output.startswith("exported 320 vectors to ")
    assert run.invoke(cache, ["export", "--model", "beta", str(one)]).output.startswith("exported 20 vectors to ")
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path / "other machine"))
    for _ in range(2):
        assert run.invoke(cache, ["import", str(one)]).output == "imported 20 vectors; the cache now has 20\n"
    assert run.invoke(cache, ["import", str(file)]).output == "imported 320 vectors; the cache now has 320\n"
    assert asyncio.run(numbers_of("alpha:F32@5555", 300)) == list(range(300))
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_damaged_or_foreign_file_is_not_imported(run: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(daemons_cache(), 50))
    file, damaged = tmp_path / "all.cache", tmp_path / "damaged.cache"
    run.invoke(cache, ["export", str(file)])
    whole = file.read_bytes()
    run.invoke(cache, ["clear", *NO_DAEMON])
    for place in (5, 30, 200, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        damaged.write_bytes(changed)
        with pytest.raises(CacheFileError):
            run.invoke(cache, ["import", str(damaged)])
    for length in (0, 10, 40, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        with pytest.raises(CacheFileError):
            run.invoke(cache, ["import", str(damaged)])
    monkeypatch.setattr("edgeembed.cache.transfer.SCHEMA", b"edgeembed row 99")
    with pytest.raises(CacheFileError, match=r"schema 'edgeembed row 2'.*reads only 'edgeembed row 99'"):
        run.invoke(cache, ["import", str(file)])
    assert stats_of(run)["entries"] == 0


# --- warm -----------------------------------------------------------------------------------------------------------------


NAN, INF = np.float32("nan"), np.float32("inf")


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([NAN] * 384, "row 2 is damaged or is not a vector: its numbers must be finite"),
        ([1.0, *[INF] * 383], "row 2 is damaged or is not a vector"),
        ([0.0] * 384, "row 2 is damaged or is not a vector"),
        ([1.0] * 10, "row 2 has 10 numbers, but those of .* have 8"),
        ([1.0] * 5000, "row 2 has 5000 numbers, but those of .* have 8"),
    ],
)
@pytest.mark.parametrize("label", ["installed", "in the cache", "in the file"])
def test_rows_that_are_no_vectors_are_not_imported(
    numbers: list[float], said: str, label: str, run: CliRunner, tmp_path: Path
) -> None:
    """Their checksums are right: the file was made by a program, and not damaged on its way."""
    model = served(install("alpha", "F32"))
    assert model.row_dimensions == (8,)
    name = model.label if label == "installed" else "other:F16@1234"
    good = [1.0] * 8
    file = tmp_path / "x.cache"
    if label == "in the cache":
        write_export(file, [(name, good)])
        run.invoke(cache, ["import", str(file)])

    def entries() -> int:
        return int(json.loads(run.invoke(cache, ["stats", "--json", *NO_DAEMON]).output)["entries"])

    before = entries()
    write_export(file, [(name, good), (name, numbers)])
    with pytest.raises(CacheFileError, match=f"{said}.*Nothing was imported"):
        run.invoke(cache, ["import", str(file)])
    assert entries() == before


@pytest.mark.parametrize("first", [True, False])
def test_packed_rows_of_several_outputs_are_imported(first: bool, run: CliRunner, tmp_path: Path) -> None:
    """Their lengths depend on their texts; those of the dense rows beside them are checked as before."""
    name, good = "other:F16@1234", [0.5] * 8
    packed = [fake_packed_row(text, ("multi", "sparse")).tolist() for text in ("one", "two three four")]
    rows = [*packed, good, good] if first else [good, *packed, good]
    file = tmp_path / "x.cache"
    write_export(file, [(name, numbers) for numbers in rows])
    assert "imported 4 vectors" in run.invoke(cache, ["import", str(file)]).output
    write_export(file, [(name, numbers) for numbers in [*rows, [0.5] * 9]])
    with pytest.raises(CacheFileError, match=r"row 5 has 9 numbers, but those of .* have 8"):
        run.invoke(cache, ["import", str(file)])


def write_export(file: Path, rows: list[tuple[str, list[float]]]) -> None:
    """Write rows, by the labels of their models, as `cache export` would, without its checks."""
    items = []
    for number, (label, numbers) in enumerate(rows):
        key = KEYS.key(label, f"import {number}")
        value = encode_row(key, CachedRow(np.array(numbers, dtype=np.float32), 3, 0.1, 1))
        items.append((DiskItem(key, value, label), False))
    tier = SimpleNamespace(models=lambda: [], rows=lambda _model: items)
    export_rows(tier, file, None, lambda _done, _total: None)  # type: ignore[arg-type]


def test_warm_fills_the_running_daemons_cache(run: CliRunner, tmp_path: Path) -> None:
    lines, as_json = tmp_path / "queries.txt", tmp_path / "queries.jsonl"
    lines.write_text("\n".join(f"query {number}" for number in range(150)) + "\n\nquery 7\n" + "word " * 30 + "\n")
    as_json.write_text('"one"\n{"text": "two"}\n{"query": "größe"}\n\n', encoding="utf-8")
    engine = FakeEngine()
    with daemon(engine) as port:
        flags = ("--port", str(port))
        first = run.invoke(cache, ["warm", str(lines), *flags])
        assert first.exit_code == 1
        assert "cached 150 queries, 1 refused" in first.output and "length is 20 tokens" in first.output
        computed = {text for text in engine.computed if text != "hello"}  # of the health check
        assert computed == {f"query {number}" for number in range(150)}
        before = len(engine.computed)
        second = run.invoke(cache, ["warm", str(as_json), "--input-type", "query", *flags])
        assert (second.exit_code, second.output.splitlines()[-1]) == (0, "cached 3 queries, 0 refused")
        computed = set(engine.computed[before:]) - {"hello"}
        assert computed == {"query: größe", "query: one", "query: two"}
        status = stats_of(run, *flags)
        assert status["daemon"]["memory_entries"] == 153  # type: ignore[index]
        printed = run.invoke(cache, ["stats", *flags]).output
        assert "in memory" in printed and "153 vectors" in printed
    with contextlib.closing(sqlite3.connect(Path(run.invoke(cache, ["path"]).output.strip()) / DATABASE)) as database:
        kept = database.execute("SELECT COUNT(*) FROM Cache WHERE access_count > 0").fetchone()
    assert kept == (153,), "they are kept before anything else"


def test_warm_finds_the_outputs_that_clients_ask_for(run: CliRunner, tmp_path: Path) -> None:
    """A dense vector in the cache does not answer a request that wants sparse weights beside it."""
    queries = tmp_path / "queries.txt"
    queries.write_text("one\ntwo\n")
    engine = FakeEngine()
    with daemon(engine) as port:
        flags = ("--port", str(port))
        for outputs in ((), ("--dense", "--sparse"), ("--multi-vector",)):
            assert run.invoke(cache, ["warm", str(queries), *outputs, *flags]).exit_code == 0
        assert engine.computed.count("one") == 3
        settings = Settings(host="127.0.0.1", port=port)
        for fields in ({}, {"sparse": True}, {"multi_vector": True, "return_dense": False}):
            assert asyncio.run(ask(settings, "/v1/embeddings", 20.0, {"input": "one", **fields})) is not None
        assert engine.computed.count("one") == 3, "all were in the cache"
        asyncio.run(ask(settings, "/v1/embeddings", 20.0, {"input": "one", "multi_vector": True}))
        assert engine.computed.count("one") == 4


def test_warm_needs_a_daemon_or_a_model(run: CliRunner, tmp_path: Path) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("one\n")
    with pytest.raises(EdgeEmbedError, match="name one with --model"):
        run.invoke(cache, ["warm", str(queries), *NO_DAEMON])


@pytest.mark.parametrize("content", ['{"other": "x"}', "[1]", "5", "not json"])
def test_warm_names_the_bad_line(run: CliRunner, tmp_path: Path, content: str) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(f'"fine"\n{content}\n')
    with pytest.raises(CacheFileError, match="line 2"):
        run.invoke(cache, ["warm", str(queries), *NO_DAEMON])
