"""Where vectors go, and what is removed there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.bulk.outputs import Output
from edgeembed.errors import ConfigError


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
    output.remove_partial_files()
    assert not any(file.exists() for file in partial)
    assert all(file.exists() for file in kept)


def test_a_folder_of_other_files_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"contains notes\.txt, which edgeembed did not write"):
        Output.of(f"{tmp_path}/").clear()
    assert (tmp_path / "notes.txt").exists()
