"""Where vectors go, and what is removed there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest

from edgeembed.bulk.job import claimed
from edgeembed.bulk.outputs import Output
from edgeembed.bulk.stores.output import output_of
from edgeembed.errors import ConfigError
from tests.bulk.jobs import make_job


@pytest.mark.parametrize(
    ("name", "format_", "folder"),
    [("v.parquet", "parquet", False), ("v.NDJSON", "jsonl", False), ("v.npy", "npy", False), ("v/", "parquet", True)],
)
def test_the_suffix_decides_the_format(name: str, format_: str, folder: bool) -> None:
    output = Output.of(name)
    assert (output.format, output.folder) == (format_, folder)


def test_an_unknown_suffix_is_an_error_that_lists_the_formats() -> None:
    with pytest.raises(ConfigError, match=r"unknown output format: v\.txt; expected \.parquet, "):
        Output.of("v.txt")


@pytest.mark.parametrize("name", ["v.npy", "v/"])
def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path: Path, name: str) -> None:
    output = Output.of(f"{tmp_path}/{name}")
    work = output.work()
    work.folder.mkdir(parents=True)
    partial = [work.folder / ".receipt-0000001.json.1f.tmp", work.shards / f".shard-0000001{output.suffix}.1f.tmp"]
    if not output.folder:
        partial += [tmp_path / ".v.npy.1f.tmp", tmp_path / ".v.ids.jsonl.1f.tmp"]
    kept = [work.folder / "receipt-0000000.json", work.shards / f"shard-0000000{output.suffix}", tmp_path / ".other.tmp"]
    for file in (*partial, *kept):
        file.touch()
    output.recover()
    assert not any(file.exists() for file in partial)
    assert all(file.exists() for file in kept)


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"contains notes\.txt, which edgeembed did not write"):
        Output.of(f"{tmp_path}/").require_ours()


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        (["in.jsonl"], "in.jsonl"),
        (["other.txt", "in.jsonl"], "link.jsonl"),
        (["hard.jsonl"], "in.jsonl"),
        (["in.jsonl"], "sub/../in.jsonl"),
        (["in.rejects.jsonl"], "in.parquet"),
        (["in.ids.jsonl"], "in.npy"),
        (["v.parquet.parts/shard-0000000.parquet"], "v.parquet"),
        (["sub/shard-0000000.parquet"], "sub/"),
        (["sub/shard-0000000.parquet"], "linked/"),
        (["sub"], "sub/out.jsonl"),
        (["linked"], "sub/deeper/out.parquet"),
        (["."], "out.parquet"),
        (["."], "sub/"),
    ],
)
def test_a_job_never_writes_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.jsonl", "in.rejects.jsonl", "in.ids.jsonl", "other.txt"):
        Path(name).touch()
    Path("link.jsonl").symlink_to("in.jsonl")
    Path("hard.jsonl").hardlink_to("in.jsonl")
    for folder in ("sub", "v.parquet.parts"):
        Path(folder).mkdir()
        (Path(folder) / "shard-0000000.parquet").touch()
    Path("linked").symlink_to("sub")
    with pytest.raises(ConfigError, match="choose another output"):
        Output.of(output).require_apart(inputs, None)
    Output.of("elsewhere.parquet").require_apart([name for name in inputs if name != "."], None)


def test_a_folder_as_input_of_one_format_may_hold_the_output(tmp_path: Path) -> None:
    Output.of(f"{tmp_path}/out.parquet").require_apart([str(tmp_path), "-"], "csv")


def test_a_kill_while_a_folder_is_replaced_leaves_the_old_one_to_be_put_back(tmp_path: Path) -> None:
    (tmp_path / "v.replaced" / "_edgeembed").mkdir(parents=True)
    (tmp_path / "v.replaced" / "_edgeembed" / "finished").touch()
    (tmp_path / "v.parts" / "_edgeembed").mkdir(parents=True)
    output = Output.of(f"{tmp_path}/v/")
    output.recover()
    assert output.finished
    assert output.work().shards == tmp_path / "v.parts"
    (tmp_path / "v.replaced").mkdir()  # the kill came after the new one took its place
    output.recover()
    assert not (tmp_path / "v.replaced").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX: pipes and devices among the files")
@pytest.mark.parametrize(
    ("name", "pipe"),
    [
        ("v.jsonl", "v.jsonl"),
        ("v/", "v"),
        ("v.npy", "v.ids.jsonl"),
        ("v.parquet", "v.rejects.jsonl"),
        ("faiss:v", "v"),
        ("v.faiss", "v.faiss.rows.jsonl"),
        ("sqlite:v", "v"),
        ("lancedb:v", "v"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_no_file_takes_the_place_of_a_device_or_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pipe: str, linked: bool
) -> None:
    """Root could replace /dev/null by a file."""
    job = make_job(tmp_path, "unused.jsonl", ("dense",))
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    os.mkfifo(tmp_path / "pipe" if linked else pipe)
    if linked:
        Path(pipe).symlink_to(tmp_path / "pipe")
    job = msgspec.structs.replace(job, output=output_of(name), overwrite=True)
    with pytest.raises(ConfigError, match=f"{pipe} is a device or a pipe, which a file would replace"), claimed(job):
        pass
    assert [file.name for file in folder.iterdir()] == [pipe]
    assert Path(pipe).is_fifo()


@pytest.mark.parametrize("name", ["v.jsonl", "sqlite:{}/v"])
def test_a_job_that_is_refused_leaves_nothing(tmp_path: Path, name: str) -> None:
    job = make_job(tmp_path, name, ("dense",))
    other = job.output.work()
    other.folder.mkdir()
    (other.folder / "manifest.json").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="has an unfinished job"), claimed(job):
        pass
    assert sorted(tmp_path.rglob("*")) == before
