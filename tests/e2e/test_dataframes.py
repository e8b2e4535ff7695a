"""The recipes of docs/dataframes.md, run as they stand; they give the vectors of `edgeembed embed`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.docs.pages import ROOT, blocks
from tests.e2e.engines import engines_below

ROWS = 60
RECIPES = {
    name: next(block.text for block in blocks("python") if block.page.name == "dataframes.md" and word in block.text)
    for name, word in (("spark", "pyspark"), ("dask", "dask"), ("daft", "daft"), ("duckdb", "duckdb"))
}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dataframes")]


class Place(NamedTuple):
    """A folder with texts.parquet, the model in place of the page's, the vectors that `edgeembed embed` computes."""

    folder: Path
    model: str
    expected: dict[int, list[float]]
    environ: dict[str, str]


@pytest.fixture(scope="module")
def place(minilm: Callable[[str], Path]) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp())
    texts = [f"text {number}" if number % 20 else None for number in range(ROWS)]
    table = pa.table({"id": range(ROWS), "text": pa.array(texts, pa.string())})
    (folder / "texts.parquet").mkdir()
    pq.write_table(table, folder / "texts.parquet" / "all.parquet")
    model = str(minilm("Q8_0"))
    paths = [str(ROOT), str(ROOT / ".ci" / "typed")]
    environ = {**os.environ, "EDGEEMBED_HOME": str(folder / "home"), "TMPDIR": str(folder), "SPARK_LOCAL_IP": "127.0.0.1"}
    environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYSPARK_PYTHON": sys.executable, "DO_NOT_TRACK": "1"}
    # A JVM that lives for seconds is sooner done with its first compiler alone, and with one thread for its garbage.
    java = "--driver-java-options '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC'"
    environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[2] --conf spark.ui.enabled=false {java} pyspark-shell"
    out = folder / "job.parquet"
    words = ["embed", str(folder / "texts.parquet" / "all.parquet"), "-o", str(out), "--id", "id", "--model", model]
    done = subprocess.run([sys.executable, "-m", "edgeembed", *words, "--no-daemon"], env=environ, timeout=120)
    assert done.returncode == 3  # some rows have no text
    expected = {row["id"]: row["vector"] for row in pq.read_table(out).to_pylist()}
    yield Place(folder, model, expected, environ)
    for process in engines_below(folder):
        process.kill()
        process.wait(20)
    shutil.rmtree(folder)


def vectors(name: str, place: Place) -> dict[int, dict[str, Any]]:
    """Return the rows that a recipe has written."""
    if name == "duckdb":
        with duckdb.connect(str(place.folder / "notes.duckdb")) as database:
            rows = database.sql("FROM vectors").to_arrow_table().to_pylist()
    else:
        rows = pq.read_table(place.folder / f"vectors-{name}.parquet").to_pylist()
    return {row["id"]: row for row in rows}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, place: Place) -> None:
    if name == "spark" and shutil.which("java") is None:
        pytest.skip("NOT tested with Spark: java is missing (Debian: default-jre-headless)")
    program = place.folder / f"{name}_recipe.py"
    program.write_text(RECIPES[name].replace("all-minilm-l6-v2", place.model))
    done = subprocess.run(
        [sys.executable, str(program)], env=place.environ, cwd=place.folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(ROWS)
    rows = vectors(name, place)
    assert {number: row["vector"] for number, row in rows.items() if row["vector"] is not None} == place.expected
    assert {number: row["error"] for number, row in rows.items() if row["error"]} == dict.fromkeys((0, 20, 40), "no text")
    assert rows[7]["text"] == "text 7"
    assert len(engines_below(place.folder)) == 1, "all recipes use one engine"
