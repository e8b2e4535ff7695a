"""Which commands are jobs over fragments, and what these refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.cli.embed_dataset import is_dataset
from edgeembed.cli.embed_flags import EmbedFlags
from tests.cli.helpers import edgeembed

pytestmark = pytest.mark.usefixtures("no_daemon")


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_PORT", "1")


class Flags(EmbedFlags):
    def __init__(self, engine: str = "auto", *, single_file: bool = False) -> None:
        object.__setattr__(self, "engine", engine)
        object.__setattr__(self, "single_file", single_file)


@pytest.mark.parametrize(
    ("source", "output", "flags", "wanted"),
    [
        ("a.jsonl", "v.parquet", Flags(), False),
        ("a.jsonl", "v/", Flags(), False),
        ("a.jsonl", "postgresql://host/base#posts", Flags(), False),
        ("a.jsonl", "qdrant:http://host:6333#posts", Flags(), False),
        ("s3://bucket/a.jsonl", "sqlite:v.db", Flags(), False),
        ("s3://bucket/a.jsonl", "sqlite:v.db", Flags("ray"), True),
        ("a.jsonl", "v/", Flags("ray"), True),
        ("a.jsonl", "v.parquet", Flags(single_file=True), True),
        ("a.jsonl", "s3://bucket/v/", Flags(), True),
        ("s3://bucket/a.jsonl", "v/", Flags(), True),
        ("file:///a.jsonl", "v/", Flags(), True),
    ],
)
def test_which_jobs_are_over_fragments(source: str, output: str, flags: EmbedFlags, *, wanted: bool) -> None:
    assert is_dataset((source,), output, flags) == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "file:///tmp/v.npy"], "the output is a folder of Parquet files here"),
        (["-o", "file:///tmp/v.npy", "--single-file"], "--single-file writes Parquet"),
        (["-o", "sqlite:v.db", "--engine", "ray"], "stores take their rows from this machine"),
        (["-o", "v/", "--engine", "ray", "--append"], "--append is for stores"),
        (["-o", "v/", "--engine", "ray", "--workers", "3:2"], "neither a number from 1 on nor MIN:MAX"),
        (["-o", "oss://b/v/"], "unknown kind of URI: oss://"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    found = edgeembed("embed", str(tmp_path / "a.txt"), *arguments)
    assert found.returncode == 2, found.stderr
    assert message in found.stderr.replace("\n", " ")


def test_standard_input_is_refused(tmp_path: Path) -> None:
    found = edgeembed("embed", "-", "-o", f"file://{tmp_path}/v/")
    assert found.returncode == 2
    assert "standard input cannot be divided" in found.stderr
