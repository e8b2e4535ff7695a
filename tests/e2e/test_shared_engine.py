"""One engine for all tasks on a machine: started once, joined, killed, idle, refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from edgeembed.bulk import batches, embed_batches, shared_engine
from edgeembed.bulk.shared_engine import SharedEngine
from edgeembed.client import Connection, Reply, ask
from edgeembed.config.settings import Settings
from edgeembed.embedder.base import resolve_given
from edgeembed.errors import ConfigError, EdgeEmbedError
from tests.e2e.engines import engines_below
from tests.waiting import until

TASK = """
import sys
import pyarrow as pa
import pyarrow.parquet
from edgeembed.bulk import batches, embed_batches
batches.SHARD_ROWS = 256
texts, out, model = sys.argv[1:]
given = pa.parquet.read_table(texts)
with pa.OSFile(out, "wb") as file:
    writer = None
    for batch in embed_batches(given.to_batches(max_chunksize=100), model=model):
        writer = writer or pa.ipc.new_stream(file, batch.schema)
        writer.write_batch(batch)
        print(batch.num_rows, flush=True)
    writer.close()
"""
TEXTS = [f"{'word ' * (number % 5)}{number}" for number in range(700)]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder for temporary files, whose name is short enough for a socket."""
    made = Path(tempfile.mkdtemp())
    monkeypatch.setenv("TMPDIR", str(made))
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made
    for process in engines_below(made):
        process.kill()
        process.wait(20)
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def model(minilm: Callable[[str], Path]) -> str:
    return str(minilm("Q8_0"))


@pytest.fixture(scope="module")
def expected(model: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the vectors that `edgeembed embed` computes."""
    folder = tmp_path_factory.mktemp("job")
    out = folder / "job.parquet"
    words = ["embed", str(written(folder)), "-o", str(out), "--model", model, "--no-daemon", "--shard-rows", "256"]
    environ = {**os.environ, "EDGEEMBED_HOME": str(folder)}
    subprocess.run([sys.executable, "-m", "edgeembed", *words], check=True, capture_output=True, timeout=120, env=environ)
    return bits(pyarrow.parquet.read_table(out)["vector"])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(folder: Path) -> Path:
    """Return a file with TEXTS."""
    path = folder / "texts.parquet"
    pyarrow.parquet.write_table(pa.table({"text": TEXTS}), path)
    return path


def task(texts: Path, out: Path, model: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", TASK, str(texts), str(out), model]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def bits(column: Any) -> bytes:
    """Return the numbers of a column of vectors."""
    assert column.null_count == 0
    numbers: bytes = column.combine_chunks().flatten().to_numpy().tobytes()
    return numbers


def engine_of(model: str, **more: Any) -> SharedEngine:
    return SharedEngine(resolve_given(model, {}), **more)


@pytest.mark.slow
def test_tasks_that_start_at_once_share_an_engine_that_stays_also_if_one_is_killed(
    folder: Path, texts: Path, model: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Spark and Dask do for each task
    outs = [texts.with_name(f"{number}.arrow") for number in range(3)]
    tasks = [task(texts, out, model) for out in outs]
    assert tasks[2].stdout is not None
    tasks[2].stdout.readline()
    [first] = engines_below(folder)
    tasks[2].send_signal(signal.SIGKILL)
    tasks[2].wait(20)
    tasks[2].stdout.close()
    assert [each.wait(120) for each in tasks[:2]] == [0, 0]
    assert "OMP_NUM_THREADS" not in first.environ()
    for out in outs[:2]:
        found = pa.ipc.open_stream(out.read_bytes()).read_all()
        assert found["text"].to_pylist() == TEXTS
        assert bits(found["vector"]) == expected
    list(embed_batches(pa.table({"text": ["later"]}).to_batches(), model=model))
    assert engines_below(folder) == [first]
    assert engine_of(model).log_file.read_text().count("listens on") == 1


@pytest.mark.slow
def test_a_killed_engine_costs_no_row_and_no_bit(
    folder: Path, texts: Path, model: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SHARD_ROWS", 256)
    found = embed_batches(pyarrow.parquet.read_table(texts).to_batches(max_chunksize=100), model=model)
    parts = [next(found)]
    [first] = engines_below(folder)
    first.kill()
    parts += found
    assert engines_below(folder) != [first]
    assert bits(pa.Table.from_batches(parts)["vector"]) == expected


@pytest.mark.slow
def test_a_stopped_engine_is_replaced_and_costs_no_row_and_no_bit(
    folder: Path, texts: Path, model: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SHARD_ROWS", 256)
    monkeypatch.setattr(shared_engine, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(shared_engine, "WATCH_ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(shared_engine, "FIRST_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(shared_engine, "ANSWER_SECONDS", 20.0)
    found = embed_batches(pyarrow.parquet.read_table(texts).to_batches(max_chunksize=100), model=model)
    parts = [next(found)]
    [first] = engines_below(folder)
    first.suspend()
    parts += found
    assert first not in engines_below(folder), "it would hold the model's memory"
    assert bits(pa.Table.from_batches(parts)["vector"]) == expected


@pytest.mark.slow
def test_an_engine_that_is_merely_slow_is_waited_for(
    folder: Path, texts: Path, model: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What computes stands still, so no batch is ever done, until the engine was asked often."""
    questions, ask_connection = 0, Connection.ask

    async def counted(connection: Connection, path: str, *more: Any) -> Reply | None:
        nonlocal questions
        questions += path == "/livez"
        if questions == 3 * shared_engine.MOST_UNANSWERED:
            worker.resume()
        return await ask_connection(connection, path, *more)

    monkeypatch.setattr(batches, "SHARD_ROWS", 256)
    monkeypatch.setattr(shared_engine, "WATCH_SECONDS", 0.1)
    found = embed_batches(pyarrow.parquet.read_table(texts).to_batches(max_chunksize=100), model=model)
    parts = [next(found)]
    [first] = engines_below(folder)
    [worker] = first.children()
    monkeypatch.setattr(Connection, "ask", counted)
    worker.suspend()
    parts += found
    assert questions >= 3 * shared_engine.MOST_UNANSWERED
    assert engines_below(folder) == [first]
    assert first.children() == [worker]
    assert bits(pa.Table.from_batches(parts)["vector"]) == expected


def test_an_engine_that_nobody_uses_ends(folder: Path, model: str) -> None:
    engine = engine_of(model, idle_seconds=0.1)
    address = engine.ensure()
    [process] = engines_below(folder)
    assert address.uds and Path(address.uds).stat().st_mode & 0o077 == 0
    assert process.wait(30) == 0
    assert engine.find() is None
    assert "nobody has used it" in engine.log_file.read_text()


def test_where_there_are_no_sockets_it_listens_on_a_port_with_a_key(
    folder: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_engine, "LONGEST_SOCKET", 0)
    given = pa.table({"text": ["one", "two"]}).to_batches(max_chunksize=1)
    assert [batch.num_rows for batch in embed_batches(given, model=model)] == [1, 1]
    address = engine_of(model).find()
    assert address is not None and address.api_key
    stranger = asyncio.run(ask(Settings(host=address.host, port=address.port), "/v1/status"))
    assert stranger is not None and stranger.status == 401
    [process] = engines_below(folder)
    process.kill()
    process.wait(20)
    assert [batch.num_rows for batch in embed_batches(given, model=model)] == [1, 1]
    [process] = engines_below(folder)
    process.terminate()
    process.wait(30)
    assert not list(folder.rglob("*.json")), "an address that outlives its engine leads to whoever listens there next"


def test_an_engine_that_is_killed_while_it_starts_is_started_again(
    folder: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = shared_engine.start_detached, []

    def kill_first(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*words, **options))
        if len(started) == 1:
            started[0].kill()
        return started[-1]

    monkeypatch.setattr(shared_engine, "start_detached", kill_first)
    [batch] = embed_batches(pa.table({"text": ["one"]}).to_batches(), model=model)
    assert batch.num_rows == 1
    assert [process.pid for process in engines_below(folder)] == [started[1].pid]


def test_other_settings_have_another_engine(folder: Path, model: str) -> None:
    assert engine_of(model).log_file != SharedEngine(resolve_given(model, {"threads": 1})).log_file
    assert engine_of(model).log_file == SharedEngine(resolve_given(model, {"port": 9999, "api_key": "x"})).log_file


def test_a_folder_of_somebody_else_is_refused(folder: Path, model: str) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere").chmod(0o755)
    (folder / f"edgeembed-{os.getuid()}").symlink_to(folder / "elsewhere")
    with pytest.raises(ConfigError, match="another user's or a link"):
        list(embed_batches(pa.table({"text": ["one"]}).to_batches(), model=model))
    assert (folder / "elsewhere").stat().st_mode & 0o777 == 0o755


def test_why_an_engine_does_not_start_is_said(folder: Path, model: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(Path(model).read_bytes()[:200_000])
    with pytest.raises(EdgeEmbedError, match=r"damaged\.gguf"):
        list(embed_batches(pa.table({"text": ["one"]}).to_batches(), model=str(damaged)))
    with pytest.raises(EdgeEmbedError, match="the engine ended with exit status") as caught:
        SharedEngine(resolve_given(model, {"load_timeout": 0.01})).ensure()
    assert "error: " in caught.value.message
    assert until(lambda: not engines_below(folder))
