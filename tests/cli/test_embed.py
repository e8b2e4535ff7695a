"""`edgeembed embed` and `rerank` in separate processes, with a real server on a fake engine and with the real MiniLM."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from edgeembed.bulk.embedding import TEXTS_PER_REQUEST
from edgeembed.bulk.job import MIN_CONCURRENT_SHARDS
from edgeembed.config.paths import Paths
from edgeembed.models.profiles import RunProfile, TuningResult, TuningResults
from tests.bulk.daemon import CountingEngine, serving
from tests.cli.helpers import MAIN, edgeembed
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.sparse import FORMS
from tests.e2e.daemon import running
from tests.server.dialect_requests import unit
from tests.signals import listening_to_sigint
from tests.waiting import until

pytestmark = pytest.mark.e2e

ROWS = 2400
SHARD = 300
UNFINISHED = MIN_CONCURRENT_SHARDS * SHARD
"""At most so many texts are in unfinished shards."""


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def port(engine: CountingEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with serving(engine) as port:
        monkeypatch.setenv("EDGEEMBED_PORT", str(port))
        yield port


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"text number {row}", "key": 1000 + row}) for row in range(ROWS)]
    lines[7] = '{"text": "' + "word " * 50 + '", "key": 1007}'  # longer than the model accepts
    lines[201] = "{broken"
    lines[202] = '{"text": "", "key": 1202}'
    path.write_text("\n".join(lines))
    return path


def said(*arguments: str) -> str:
    """Run a command that must succeed, apart from rows that are refused, and return its standard error."""
    found = edgeembed(*arguments)
    assert found.returncode == (3 if "could not be embedded" in found.stderr else 0), found.stderr
    return found.stderr


def job(texts: Path, out: Path, *more: str) -> list[str]:
    return ["embed", str(texts), "-o", str(out), "--id", "key", "--shard-rows", str(SHARD), *more]


def read(out: Path) -> tuple[list[int], np.ndarray]:
    """Return ids and vectors of an output."""
    if out.suffix == ".npy":
        ids = [json.loads(line) for line in out.with_name(f"{out.stem}.ids.jsonl").read_text().splitlines()]
        return ids, np.load(out)
    if out.suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return [row["id"] for row in rows], np.array([row["vector"] for row in rows])
    table = pa.ipc.open_file(out).read_all() if out.suffix == ".arrow" else pq.read_table(out)
    return table["id"].to_pylist(), np.stack(table["vector"].to_numpy())


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl", ".npy"])
def test_every_format_holds_the_daemons_vectors_with_their_ids(port: int, texts: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"vectors{suffix}"
    output = said(*job(texts, out))
    ids, vectors = read(out)
    wanted = [row for row in range(ROWS) if row not in (7, 201, 202)]
    assert ids == [1000 + row for row in wanted]
    assert np.allclose(vectors, [unit(f"text number {row}") for row in wanted], atol=1e-6)
    rejects = [json.loads(line) for line in (tmp_path / "vectors.rejects.jsonl").read_text().splitlines()]
    assert sorted(reject.get("id", 0) for reject in rejects) == [0, 1007, 1202]
    (long,) = [reject for reject in rejects if "52 tokens" in reject["reason"]]
    assert (long["input"], long["place"]) == (str(texts), "line 8")
    assert "3 rows could not be embedded; they are listed in" in output
    assert f"the first, {texts}, line 202: not JSON" in output, "the first of the first shard"
    left = {path.name for path in tmp_path.iterdir()} - {"home", "texts.jsonl", "vectors.ids.jsonl"}
    assert left == {out.name, "vectors.rejects.jsonl"}, "nothing else is left behind"


@pytest.mark.parametrize(
    ("dtype", "kind", "width"), [("float16", "float16", 8), ("int8", "int8", 8), ("binary", "uint8", 1)]
)
def test_each_dtype_is_stored(port: int, texts: Path, tmp_path: Path, dtype: str, kind: str, width: int) -> None:
    vectors = {}
    for suffix in (".npy", ".parquet", ".jsonl"):
        out = tmp_path / f"v{suffix}"
        said(*job(texts, out, "--dtype", dtype, "--dimensions", "8"))
        _, vectors[suffix] = read(out)
    assert vectors[".npy"].dtype == kind
    assert vectors[".npy"].shape == (ROWS - 3, width)
    assert np.array_equal(vectors[".npy"], vectors[".parquet"])
    assert np.array_equal(vectors[".npy"], vectors[".jsonl"].astype(kind))
    first = unit("text number 0", 8)
    if dtype == "binary":
        assert vectors[".npy"][0, 0] == np.packbits(first > 0)[0]
    else:
        row = vectors[".npy"][0].astype(float)
        assert row @ first / np.linalg.norm(row) > 0.999


@pytest.mark.parametrize("name", ["v.parquet", "v.arrow", "v.jsonl", "v.npy", "v/"])
def test_a_killed_and_resumed_job_writes_the_same_bytes_as_an_uninterrupted_one(
    port: int, engine: CountingEngine, texts: Path, tmp_path: Path, name: str
) -> None:
    """Finished shards are not computed again; a kill loses at most the shards in progress."""
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    said(*job(texts, Path(f"{tmp_path}/whole/{name}"))) if name != "v/" else said(*folder_job(texts, tmp_path / "whole"))
    undisturbed = len(engine.computed)
    engine.computed.clear()
    command = folder_job(texts, tmp_path / "killed") if name == "v/" else job(texts, tmp_path / "killed" / name)
    finished: dict[str, int] = {}
    for texts_before_death in (SHARD + 270, 2 * SHARD + 390):
        engine.until = texts_before_death
        engine.stopped.clear()
        process = subprocess.Popen([sys.executable, "-c", MAIN, *command, "--resume"], stderr=subprocess.DEVNULL)
        try:
            assert engine.stopped.wait(60)
            before = receipts(tmp_path / "killed")
        finally:
            process.kill()
            process.wait()
        assert before, "the kill came before the first shard was there"
        if not finished:
            numbers = [int(receipt.stem.removeprefix("receipt-")) * SHARD for receipt in before]
            # If the first request of a shard has a text that is refused, its other texts are computed again.
            later = [f"text number {row}" for first in numbers for row in range(first + TEXTS_PER_REQUEST, first + SHARD)]
            finished = {text: engine.computed.count(text) for text in later}
    engine.until = None
    output = said(*command, "--resume")
    assert "are done already" in output
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    # Each of the two kills loses at most the shards in progress, one of whose requests is sent twice.
    assert len(engine.computed) - undisturbed <= 2 * (UNFINISHED + TEXTS_PER_REQUEST) < undisturbed
    assert {text: engine.computed.count(text) for text in finished} == finished, "a finished shard was computed again"


def folder_job(texts: Path, folder: Path) -> list[str]:
    command = job(texts, folder)
    command[3] = f"{folder}/v/"
    return command


def receipts(folder: Path) -> list[Path]:
    """Wait until the first shard is written, and return the receipts."""
    return until(lambda: list(folder.rglob("receipt-*.json")))


def test_a_job_is_resumed_only_with_the_same_inputs_and_rules(
    port: int, engine: CountingEngine, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v.parquet"
    engine.until = SHARD + 270
    process = subprocess.Popen([sys.executable, "-c", MAIN, *job(texts, out)], stderr=subprocess.DEVNULL)
    assert engine.stopped.wait(60)
    assert receipts(tmp_path)
    process.kill()
    process.wait()
    engine.until = None
    for command, word in (
        (job(texts, out), "run the command that began it with --resume"),
        (job(texts, out, "--resume", "--dtype", "int8"), "dtype = float32"),
        (job(texts, out, "--resume", "--dimensions", "8"), "dimensions = None"),
    ):
        found = edgeembed(*command)
        assert found.returncode == 2
        assert word in found.stderr
    os.utime(texts, (1, 1))
    found = edgeembed(*job(texts, out, "--resume"))
    assert (found.returncode, "the inputs have changed" in found.stderr) == (2, True)
    said(*job(texts, out, "--overwrite"))
    assert len(read(out)[0]) == ROWS - 3


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl", "v.npy", "v/"])
def test_overwriting_replaces_nothing_before_the_new_output_is_complete(
    port: int, engine: CountingEngine, texts: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "new").mkdir()
    command = job(texts, Path("OUT"))
    command[3] = f"{tmp_path}/out/{name}"
    said(*command)
    before = content(tmp_path / "out")
    mistakes = (
        ["embed", str(tmp_path / "nosuch.jsonl"), *command[2:]],
        [*command, "--column", "bdoy"],
        [*command, "--model", "nosuch"],
        [*command, "--dimensions", "5000"],
        [*command, "--format", "csv", "--column", "body"],
    )
    for mistake in mistakes:
        found = edgeembed(*mistake, "--overwrite")
        assert (found.returncode != 0, "Traceback" in found.stderr) == (True, False), found.stderr
        kept = content(tmp_path / "out")
        assert {path: kept.get(path) for path in before} == before, mistake

    engine.until = len(engine.computed) + 2 * SHARD + 390
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *command, "--dimensions", "8", "--overwrite"], stderr=subprocess.DEVNULL
    )
    assert engine.stopped.wait(60)
    until(lambda: [path for path in content(tmp_path / "out") if "receipt" in path and path not in before])
    process.kill()
    process.wait()
    engine.until = None
    now = content(tmp_path / "out")
    assert {path: now[path] for path in before} == before, "the kill came before the new output was complete"
    for mistake in (mistakes[0], mistakes[1], mistakes[2]):  # the unfinished job is kept as well
        edgeembed(*mistake, "--overwrite")
        assert {path for path in now if "receipt" in path} <= set(content(tmp_path / "out")), mistake

    assert "are done already" in said(*command, "--dimensions", "8", "--overwrite", "--resume")
    fresh = [*command, "--dimensions", "8"]
    fresh[3] = f"{tmp_path}/new/{name}"
    said(*fresh)
    assert content(tmp_path / "out") == content(tmp_path / "new")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_keeps_finished_shards_and_explains_how_to_continue(
    port: int, engine: CountingEngine, texts: Path, tmp_path: Path
) -> None:
    engine.until = SHARD + 270
    command = [sys.executable, "-c", MAIN, *job(texts, tmp_path / "v.npy")]
    with listening_to_sigint():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert engine.stopped.wait(60)
    assert receipts(tmp_path)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command with --resume" in output
    assert "Traceback" not in output


def test_texts_are_computed_at_bulk_priority_without_the_cache(port: int, engine: CountingEngine, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"line {row}" for row in range(130)))
    said("embed", str(path), "-o", str(tmp_path / "v.npy"))
    said("embed", str(path), "-o", str(tmp_path / "v.npy"), "--overwrite")
    lines = [text for text in engine.computed if text.startswith("line ")]
    assert len(lines) == 2 * 130, "the cache answered"
    assert engine.priorities.count(1) == 2 * 130, "only the probe of each run may go before bulk loads"
    assert engine.isolated[-130:] == [True] * 130, "they share forward passes with other people's texts"


def test_requests_to_a_busy_daemon_are_retried(port: int, engine: CountingEngine, texts: Path, tmp_path: Path) -> None:
    from edgeembed.errors import EngineUnavailableError

    refusals = iter(range(3))
    engine.failing = lambda text: (
        EngineUnavailableError("restarting") if "number 50" in text and next(refusals, None) is not None else None
    )
    said(*job(texts, tmp_path / "v.npy"))
    assert next(refusals, None) is None, "the daemon was never busy"
    assert len(read(tmp_path / "v.npy")[0]) == ROWS - 3


def test_standard_input_and_a_folder_are_inputs(port: int, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", MAIN, "embed", "-", "-o", str(tmp_path / "in.npy")],
        input="one\ntwo\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert np.allclose(np.load(tmp_path / "in.npy"), [unit("one"), unit("two")], atol=1e-6)
    notes = tmp_path / "notes"
    notes.mkdir()
    words = [f"word{number}" for number in range(40)]
    (notes / "long.md").write_text(" ".join(words))
    said("embed", str(notes), "-o", str(tmp_path / "notes.parquet"), "--with-text", "--chunk-tokens", "10", "--overlap", "3")
    table = pq.read_table(tmp_path / "notes.parquet")
    parts = [text.split() for text in table["text"].to_pylist()]
    assert all(5 < len(part) <= 10 for part in parts[:-1])
    assert len(parts[-1]) <= 10
    assert all(one[-3:] == other[:3] for one, other in itertools.pairwise(parts))
    assert table["id"].to_pylist()[0] == f"long.md#0-{len(' '.join(parts[0]))}"
    assert np.allclose(table["vector"].to_pylist()[1], unit(" ".join(parts[1])), atol=1e-6)


def test_long_texts_are_divided_cut_or_chunked(port: int, engine: CountingEngine, tmp_path: Path) -> None:
    words = " ".join(f"word{number}." for number in range(60))
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"text": text, "key": key}) + "\n" for key, text in ((1, "one"), (2, words))))

    def run(name: str, *more: str) -> tuple[list[int], np.ndarray]:
        said("embed", str(path), "-o", str(tmp_path / name), "--id", "key", *more)
        return read(tmp_path / name)

    assert run("refused.jsonl")[0] == [1]
    ids, vectors = run("cut.jsonl", "--truncate", "end")
    assert ids == [1, 2]
    assert np.allclose(vectors[1], unit(" ".join(words.split()[:18])), atol=1e-6)
    ids, vectors = run("mean.parquet", "--long-text", "mean")
    assert ids == [1, 2]
    assert np.allclose(vectors[0], unit("one"), atol=1e-6)
    assert abs(float(np.linalg.norm(vectors[1])) - 1) < 1e-5
    ids, vectors = run("chunks.parquet", "--chunk", "--chunk-tokens", "16", "--overlap", "4")
    assert ids[0] == "1#0-3"
    assert len(ids) > 4
    for id_, vector in zip(ids, vectors, strict=True):
        begin, end = map(int, str(id_).partition("#")[2].split("-"))
        assert np.allclose(vector, unit(("one" if str(id_)[0] == "1" else words)[begin:end]), atol=1e-6)
    whole = said("embed", str(path), "-o", str(tmp_path / "limited.parquet"), "--id", "key", "--chunk")
    assert "chunks have at most 18 tokens" in whole, "the model takes 20, of which two are special ones"
    assert "could not be embedded" not in whole
    wrong = edgeembed("embed", words, "--chunk")
    assert wrong.returncode != 0 and "--chunk is for whole files" in wrong.stderr
    wrong = edgeembed("embed", str(path), "-o", str(tmp_path / "x.jsonl"), "--long-text", "mean", "--truncate", "end")
    assert wrong.returncode != 0
    assert "contradict" in wrong.stderr


def test_nothing_is_written_when_nothing_can_be_embedded(port: int, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": ""}\n')
    found = edgeembed("embed", str(path), "-o", str(tmp_path / "v.npy"))
    assert found.returncode == 1
    assert "nothing was embedded" in found.stderr
    assert f"the first ({path}, line 1) because: the text is empty" in found.stderr
    assert not (tmp_path / "v.npy").exists()


def test_each_text_becomes_a_line_of_json(port: int, tmp_path: Path) -> None:
    found = edgeembed("embed", "one text", "another")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["model"] for row in rows] == ["embedder", "embedder"]
    assert np.allclose([row["embedding"] for row in rows], [unit("one text"), unit("another")], atol=1e-6)
    (tmp_path / "file.txt").write_text("x")
    refused = edgeembed("embed", str(tmp_path / "file.txt"))
    assert (refused.returncode, "-o" in refused.stderr) == (2, True)


def test_rerank_prints_the_best_first(port: int) -> None:
    assert edgeembed("rerank", "query", "bad", "best", "good").stdout.split() == [
        "0.9526", "best", "0.7311", "good", "0.0180", "bad",
    ]  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", MAIN, "rerank", "query", "--top", "1", "--json"],
        input="so-so\nbest\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    (line,) = found.stdout.splitlines()
    assert {key: json.loads(line)[key] for key in ("index", "document")} == {"index": 1, "document": "best"}
    long = edgeembed("rerank", "query", "best", "word " * 40)
    assert len(long.stdout.splitlines()) == 2
    assert "1 of 2 documents are too long with their query, and were cut" in long.stderr


@pytest.mark.slow
@pytest.mark.model
def test_without_a_daemon_the_real_model_is_killed_and_resumed(
    minilm: Callable[[str], Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes do not depend on threads, run profile, or which texts wait together."""
    monkeypatch.setenv("EDGEEMBED_PORT", "1")
    texts.write_text("\n".join(texts.read_text().splitlines()[: 2 * SHARD + 100]))
    model = ["--model", str(minilm("Q8_0")), "--with-text"]
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    said(*job(texts, tmp_path / "whole" / "v.parquet", *model, "--threads", "2"))
    command = job(texts, tmp_path / "killed" / "v.parquet", *model)
    process = subprocess.Popen([sys.executable, "-c", MAIN, *command], stderr=subprocess.DEVNULL)
    assert receipts(tmp_path)
    process.kill()
    process.wait()
    digest = json.loads((tmp_path / "killed" / "v.parquet.parts" / "manifest.json").read_text())["digest"]
    other = RunProfile(threads=1, batch_tokens=64, pad_from_tokens=8)
    # as if `edgeembed tune` had run meanwhile
    TuningResults(Paths.resolve().state).keep(digest, TuningResult(profile=other, made_at=0.0, thorough=True, measured=[]))
    output = said(*command, "--resume", "--threads", "1")
    assert "last digits" not in output
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.model
def test_dense_sparse_and_multi_vectors_of_one_model_are_the_same_with_and_without_a_daemon(
    texts: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, checkpoint = tmp_path / "m3.gguf", tmp_path / "m3"
    checkpoint.mkdir()
    (form,) = (each for each in FORMS if each.name == "bge_m3")
    convert_checkpoint(form.make(checkpoint), model, quantization="F32", license="MIT")
    texts.write_text("\n".join(texts.read_text().splitlines()[:40]))
    outputs = ["--dense", "--sparse", "--multi-vector"]
    monkeypatch.setenv("EDGEEMBED_PORT", "1")
    said(*job(texts, tmp_path / "alone.parquet", *outputs, "--model", str(model)))
    with running("--model", str(model), home=home) as daemon:
        monkeypatch.setenv("EDGEEMBED_PORT", daemon.url.rpartition(":")[2])
        assert "computed by the daemon at" in said(*job(texts, tmp_path / "daemon.parquet", *outputs))
    assert (tmp_path / "alone.parquet").read_bytes() == (tmp_path / "daemon.parquet").read_bytes()
    table = pq.read_table(tmp_path / "daemon.parquet")
    assert table.column_names == ["id", "vector", "multi_vector", "sparse"]
    tokens = [len(vectors) for vectors in table["multi_vector"].to_pylist()]
    assert all(0 < len(weights) <= count for weights, count in zip(table["sparse"].to_pylist(), tokens, strict=True))
