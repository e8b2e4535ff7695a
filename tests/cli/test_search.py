"""`edgeembed embed -o STORE` and `edgeembed search` in separate processes, with a real server on a fake engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeembed.bulk.stores.interface import Store
from edgeembed.bulk.stores.targets import Target, kind_of
from edgeembed.cli.embed import embed
from edgeembed.cli.search import search
from edgeembed.errors import ConfigError
from tests.bulk.daemon import CountingEngine, serving
from tests.bulk.store_places import STORES, place_of
from tests.cli.helpers import MAIN, edgeembed
from tests.server.dialect_requests import unit
from tests.waiting import until

pytestmark = pytest.mark.e2e

ROWS = 350
SHARD = 75


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
    """The model's prompt for queries is "Q: {text}": the query "text number 1" is the text of a row."""
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"Q: text number {row}", "key": 1000 + row, "part": row % 3}) for row in range(ROWS)]
    lines[7] = '{"text": "' + "word " * 50 + '", "key": 1007}'  # longer than the model accepts
    lines[200] = '{"text": "text with the id of another", "key": 1100}'
    path.write_text("\n".join(lines))
    return path


def job(texts: Path, out: str, *more: str) -> list[str]:
    return [
        "embed",
        str(texts),
        "-o",
        out,
        "--id",
        "key",
        "--shard-rows",
        str(SHARD),
        "--with-text",
        "--keep-columns",
        "part",
        *more,
    ]


def said(*arguments: str) -> str:
    """Run a command that must succeed and return its standard error."""
    found = edgeembed(*arguments)
    assert found.returncode in (0, 3), found.stderr  # 3: with rejects
    return found.stderr


def found_by(*arguments: str) -> list[dict[str, Any]]:
    done = edgeembed("search", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(name: str, *arguments: str) -> str:
    """Run a command, in this process, that must fail, and return what it says."""
    error = CliRunner().invoke({"embed": embed, "search": search}[name], arguments).exception
    assert isinstance(error, ConfigError), error
    return error.message


def opened(out: str) -> Store:
    target = Target.parse(out)
    assert target is not None
    return kind_of(target).open(target)


def content(out: str) -> dict[int, str]:
    """Return the ids and texts of a store, with a check that each text has its own vector."""
    store = opened(out)
    try:
        ids = [int(id_) for id_ in store.ids()]
        assert len(ids) == len(set(ids)) == store.count()
        rows: dict[int, str] = {}
        for id_ in ids[:: 1 if len(ids) < 50 else 97]:
            text = "text with the id of another" if id_ == 1100 else f"Q: text number {id_ - 1000}"
            (best,) = store.search(unit(text), 1)
            assert (best.id, best.text) == (id_, text)
            assert best.score == pytest.approx(1, abs=1e-5)
        for row in store.search(unit("a text"), len(ids)):
            rows[int(row.id)] = row.text or ""
            assert row.columns == {"part": None if row.id == 1100 else (int(row.id) - 1000) % 3}
        assert sorted(rows) == sorted(ids)
        return rows
    finally:
        store.close()


@pytest.mark.parametrize("kind", [*STORES, "faiss"])
def test_a_killed_and_resumed_job_leaves_the_rows_of_an_unbroken_one(
    kind: str, port: int, engine: CountingEngine, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None twice, none lost; of two rows with the same id the later one stays."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "killed")
    with place_of(kind, tmp_path / "whole") as whole, place_of(kind, tmp_path / "killed") as killed:
        _kill_and_resume(whole, killed, engine, texts, tmp_path)


def _kill_and_resume(whole: str, killed: str, engine: CountingEngine, texts: Path, tmp_path: Path) -> None:
    assert ("1 rows had the id of a later row" in said(*job(texts, whole))) != whole.startswith("faiss")
    engine.computed.clear()
    parts: list[Path] = []
    for texts_before_death, shards in ((260, 1), (400, 2)):
        engine.until = texts_before_death
        engine.stopped.clear()
        process = subprocess.Popen([sys.executable, "-c", MAIN, *job(texts, killed), "--resume"], stderr=subprocess.DEVNULL)
        try:
            assert engine.stopped.wait(60)
            until(lambda shards=shards: len(list((tmp_path / "killed").rglob("receipt-*.json"))) >= shards)
            parts = list((tmp_path / "killed").rglob("receipt-*.json"))
        finally:
            process.kill()
            process.wait()
    # A kill between the store's commit and the receipt: the shard is put a second time.
    max(parts).unlink()
    engine.until = None
    assert "are done already" in said(*job(texts, killed, "--resume"))
    if whole.startswith("faiss"):  # a file, which keeps both rows
        files = ("index.faiss", "index.faiss.rows.jsonl")
        assert all((tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files)
    else:
        rows = content(killed)
        assert rows == content(whole)
        assert sorted(rows) == [1000 + row for row in range(ROWS) if row not in (7, 200)]
        assert rows[1100] == "text with the id of another"
    assert "is complete; nothing to do" in said(*job(texts, killed, "--resume"))
    left = {path.name for path in (tmp_path / "killed").iterdir() if "parts" in path.name or "lock" in path.name}
    assert left == set(), "nothing of the job is left behind"


@pytest.mark.parametrize("kind", ["sqlite"])
def test_rows_are_found_with_their_text_and_with_what_json_shows(kind: str, port: int, texts: Path, tmp_path: Path) -> None:
    out = f"{kind}:{tmp_path}/index.db"
    said(*job(texts, out))
    first, second, *_ = found_by(out, "text number 17", "-k", "3")
    assert (first["id"], first["text"], first["part"]) == (1017, "Q: text number 17", 2)
    assert [row["part"] for row in found_by(out, "text number 17", "-k", "4", "--where", "part=1")] == [1, 1, 1, 1]
    assert first["score"] == pytest.approx(1, abs=1e-5)
    assert second["score"] < first["score"]
    shown = edgeembed("search", out, "text number 17", "-k", "1").stdout
    assert shown == "1. 1.0000  1017  part=2\n    Q: text number 17\n"


@pytest.mark.parametrize("out", ["sqlite:{}/index.db", "{}/v.parquet"])
def test_shorter_vectors_are_searched_with_a_query_cut_alike(port: int, texts: Path, tmp_path: Path, out: str) -> None:
    out = out.format(tmp_path)
    said(*job(texts, out, "--dimensions", "8"))
    first = found_by(out, "text number 17", "-k", "1")[0]
    assert first["id"] == 1017
    assert first["score"] == pytest.approx(1, abs=1e-5)


def test_a_store_that_exists_is_replaced_or_added_to_only_when_asked(port: int, texts: Path, tmp_path: Path) -> None:
    out = f"sqlite:{tmp_path}/index.db"
    said(*job(texts, out))
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "Q: a new text", "key": 1, "part": 0}\n{"text": "Q: text number 9", "key": 1008, "part": 1}\n')
    assert "exists already; replace it with --overwrite, add to it with --append" in refused(*job(more, out))
    assert "--append needs --id" in refused("embed", str(more), "-o", out, "--append")
    assert "--append and --overwrite contradict" in refused(*job(more, out, "--append", "--overwrite"))
    assert "has vectors of 16 dimensions, not 8" in refused(*job(more, out, "--append", "--dimensions", "8"))
    said(*job(texts, out, "--overwrite"))
    assert "index.db#vectors has 349 rows now" in said(*job(more, out, "--append"))
    assert found_by(out, "a new text", "-k", "1")[0]["id"] == 1
    assert {row["id"] for row in found_by(out, "text number 9", "-k", "2")} == {1008, 1009}
    said(*job(more, out, "--overwrite"))
    assert len(found_by(out, "text", "-k", "9")) == 2
    for flags, message in (
        (["--dtype", "int8"], "stores hold float32"),
        (["--sparse"], "stores hold dense vectors"),
    ):
        assert message in refused(*job(more, out, "--overwrite", *flags))
    assert "--append is for stores" in refused(*job(more, f"{tmp_path}/v.parquet", "--append"))


def test_a_job_does_not_go_on_in_another_store(port: int, engine: CountingEngine, texts: Path, tmp_path: Path) -> None:
    out = f"sqlite:{tmp_path}/index.db"
    engine.until = 260
    process = subprocess.Popen([sys.executable, "-c", MAIN, *job(texts, out)], stderr=subprocess.DEVNULL)
    assert engine.stopped.wait(60)
    assert until(lambda: list(tmp_path.rglob("receipt-*.json")))
    process.kill()
    process.wait()
    engine.until = None
    assert "run the command that began it with --resume" in refused(*job(texts, out))
    (tmp_path / "index.db").unlink()
    assert "is not the store that the unfinished job wrote to" in refused(*job(texts, out, "--resume"))
    said(*job(texts, out, "--overwrite"))
    assert len(content(out)) == ROWS - 2


def test_search_says_what_is_wrong(port: int, texts: Path, tmp_path: Path) -> None:
    out = f"{tmp_path}/v.parquet"
    said("embed", str(texts), "-o", out)
    assert "no such file" in refused("search", f"{tmp_path}/none.parquet", "x")
    (tmp_path / "v.db").touch()
    assert "is no output of `edgeembed embed`" in refused("search", f"{tmp_path}/v.db", "x")
    assert "has no fields `id` and `vector`; its fields are text, key, part" in refused("search", str(texts), "x")
    assert "has no column 'author'" in refused("search", out, "x", "--where", "author=Ann")
    assert "expected COLUMN=VALUE" in refused("search", out, "x", "--where", "author")
    assert "holds no texts to rerank; write it with --with-text" in refused("search", out, "x", "--rerank", "reranker")
    (tmp_path / "no.parquet").write_text("no table")
    assert "cannot read vectors from" in refused("search", f"{tmp_path}/no.parquet", "x")


def test_a_reranker_puts_the_rows_in_order_and_a_chunk_is_shown_as_the_passage(port: int, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in "abc":
        words = " ".join(f"{name}{number}" for number in range(40))
        (tmp_path / "notes" / f"{name}.md").write_text(words)
    out = f"sqlite:{tmp_path}/index.db"
    said("embed", f"{tmp_path}/notes", "-o", out, "--with-text", "--chunk-tokens", "12", "--overlap", "2")
    first = found_by(out, "a question", "-k", "1")[0]
    name, _, span = first["id"].partition("#")
    start, end = map(int, span.split("-"))
    assert first["text"] == (tmp_path / "notes" / name).read_text()[start:end]
    with_reranker = found_by(out, "a question", "-k", "3", "--rerank", "ranker")
    scores = [row["score"] for row in with_reranker]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    documents = [row["text"] for row in found_by(out, "a question", "-k", "32")]
    asked = edgeembed("rerank", "a question", *documents, "--model", "ranker", "--top", "3", "--json")
    expected = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [row["text"] for row in with_reranker] == [row["document"] for row in expected]
    assert scores == pytest.approx([row["score"] for row in expected], abs=1e-6)
