"""Texts per second of Spark and Dask by `edgeembed.bulk.embed_batches`, next to `edgeembed embed` of the same files.

    python -m tests.benchmarks.dataframes --model FILE.gguf --texts 100000 --tasks 2

The texts are in Parquet files of whole shards, so that partitions of any number of files give the bytes of one job. Each run
begins without an engine. `task` is a run's own process, which this program starts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edgeembed.bulk import embed_batches, embedded_schema
from edgeembed.bulk.shards import SHARD_ROWS
from edgeembed.diagnostics.bench.texts import TextMaker
from tests.e2e.engines import engines_below

RUNS = ("spark", "dask processes", "dask threads")
HOUR = 3600


def write_texts(folder: Path, count: int, words: range) -> None:
    """Write new texts, with their numbers, as files of a shard each."""
    folder.mkdir()
    maker, rng = TextMaker(1), random.Random(1)
    for first in range(0, count, SHARD_ROWS):
        numbers = range(first, min(first + SHARD_ROWS, count))
        texts = [maker.text(rng.choice(words)) for _ in numbers]
        pq.write_table(pa.table({"id": pa.array(numbers, pa.int64()), "text": texts}), folder / f"{first:09}.parquet")


def vectors_of(path: Path) -> bytes:
    """Return all numbers of an output, in the order of the texts."""
    table = pq.read_table(path).sort_by("id")
    assert table["vector"].null_count == 0
    numbers: bytes = table["vector"].combine_chunks().flatten().to_numpy().tobytes()
    return numbers


def with_spark(texts: str, out: str, tasks: int, options: Any) -> float:
    """Embed a folder of texts, and return the seconds without the start of Spark."""
    from pyspark.sql import SparkSession
    from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType

    spark = SparkSession.builder.master(f"local[{tasks}]").config("spark.ui.enabled", "false").getOrCreate()
    given = spark.read.parquet(texts)
    began = time.monotonic()
    added = [StructField("vector", ArrayType(FloatType())), StructField("error", StringType())]
    found = given.mapInArrow(partial(embed_batches, **options), StructType([*given.schema.fields, *added]))
    found.write.parquet(out)
    seconds = time.monotonic() - began
    spark.stop()
    return seconds


def with_dask(texts: str, out: str, tasks: int, options: Any, scheduler: str) -> float:
    """Embed a folder of texts, and return the seconds without the start of Python."""
    import dask
    import dask.dataframe as dd
    from dask.dataframe.utils import make_meta

    given = dd.read_parquet(texts)
    began = time.monotonic()
    schema = embedded_schema(pa.Schema.from_pandas(make_meta(given)), **options)
    found = given.map_partitions(partial(of_frame, options), meta=of_frame(options, make_meta(given)))
    with dask.config.set(scheduler=scheduler, num_workers=tasks):
        found.to_parquet(out, schema=schema, write_index=False)
    return time.monotonic() - began


def of_frame(options: Any, partition: Any) -> Any:
    given = pa.Table.from_pandas(partition)
    schema = embedded_schema(given.schema, **options)
    return pa.Table.from_batches(embed_batches(given.to_batches(), **options), schema).to_pandas()


def task(run: str, texts: str, out: str, tasks: int, model: str) -> None:
    """Print the seconds that a run took."""
    options = {"model": model, "column": "text"}
    engine, _, scheduler = run.partition(" ")
    seconds = (
        with_spark(texts, out, tasks, options) if engine == "spark" else with_dask(texts, out, tasks, options, scheduler)
    )
    print(json.dumps(seconds))


def run_alone(folder: Path, run: str, texts: Path, out: Path, arguments: argparse.Namespace) -> tuple[float, int]:
    """Return the seconds of a run that begins without an engine, and how many engines were started."""
    temporary = Path(tempfile.mkdtemp(dir=folder))
    environ = {**os.environ, "TMPDIR": str(temporary)}
    words = [sys.executable, "-m", "tests.benchmarks.dataframes", "--model", arguments.model]
    words += ["--tasks", str(arguments.tasks), "--task", run, str(texts), str(out)]
    done = subprocess.run(words, env=environ, check=True, stdout=subprocess.PIPE, timeout=HOUR)
    engines = sum(log.read_text().count(" listens on ") for log in temporary.glob("*/*.log"))
    for process in engines_below(temporary):
        process.terminate()
        process.wait(20)
    return json.loads(done.stdout.splitlines()[-1]), engines


def job(texts: Path, out: Path, model: str) -> float:
    """Return the seconds of `edgeembed embed`."""
    words = [sys.executable, "-m", "edgeembed", "embed", *map(str, sorted(texts.iterdir())), "-o", str(out), "--id", "id"]
    began = time.monotonic()
    subprocess.run([*words, "--no-daemon", "--model", model], check=True, capture_output=True, timeout=HOUR)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--words", type=int, nargs=2, default=(3, 6), help="least, and less than")
    parser.add_argument("--tasks", type=int, default=2, help="at the same time")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        task(arguments.task[0], arguments.task[1], arguments.task[2], arguments.tasks, arguments.model)
        return
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    os.environ.setdefault("EDGEEMBED_HOME", str(folder / "home"))
    try:
        texts = folder / "texts"
        write_texts(texts, arguments.texts, range(*arguments.words))
        seconds = job(texts, folder / "job.parquet", arguments.model)
        expected = vectors_of(folder / "job.parquet")
        print(f"{'edgeembed embed':16} {arguments.texts / seconds:6,.0f} texts/s, load {os.getloadavg()[0]:.1f}", flush=True)
        for run in arguments.runs:
            out = folder / run.replace(" ", "-")
            seconds, engines = run_alone(folder, run, texts, out, arguments)
            same = "the same bytes" if vectors_of(out) == expected else "OTHER BYTES"
            rate = arguments.texts / seconds
            print(f"{run:16} {rate:6,.0f} texts/s, {same}, {engines} engine(s), load {os.getloadavg()[0]:.1f}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
