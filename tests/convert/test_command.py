"""The command line of `edgeembed convert`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from edgeembed.cli.convert import convert
from edgeembed.errors import ConversionError, UnknownModelError
from tests.convert.tiny_bert import make_tiny_bert
from tests.hub.fakes import COMMIT, FakeHub


@pytest.mark.model
def test_convert_overwrites_only_with_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_bert(tmp_path / "tiny", hidden=48, feed_forward=128)
    runner = CliRunner()
    done = runner.invoke(convert, ["tiny", "--type", "q8_0"])
    assert done.exit_code == 0
    assert done.stdout.startswith("tiny-Q8_0.gguf  F16  ")
    assert "bert, 48 dimensions, mean pooling, 37 tensors" in done.stdout
    assert "note: 11 tensors with rows of 48 values are F16" in done.stderr
    assert (tmp_path / "tiny-Q8_0.gguf").is_file()

    again = runner.invoke(convert, ["tiny"])
    assert isinstance(again.exception, ConversionError)
    assert again.exception.message == (
        "tiny-Q8_0.gguf already exists; replace it with --force or choose another file with -o"
    )
    assert runner.invoke(convert, ["tiny", "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["-o", "tiny/model.safetensors", "--force"],
            "is not a .gguf file and is not replaced; choose another file with -o",
        ),
        (["-o", "a.gguf", "--keep-master", "tiny/config.json", "--force"], "choose another file with --keep-master"),
        (["-o", "a.gguf", "--keep-master", "kept.gguf"], "already exists; replace it with --force"),
        (["-o", "a.gguf", "--keep-master", "./a.gguf"], "-o and --keep-master both name"),
        (["--type", ""], "unknown type ''"),
    ],
)
def test_no_file_is_replaced_that_is_not_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_bert(tmp_path / "tiny")
    (tmp_path / "kept.gguf").write_bytes(b"kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = CliRunner().invoke(convert, ["tiny", *arguments])
    assert isinstance(done.exception, ConversionError)
    assert words in done.exception.message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.model
def test_the_source_may_be_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    hub = FakeHub()
    hub.files["people/tiny-model"] = {
        path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()
    }
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    try:
        result = CliRunner().invoke(convert, ["people/tiny-model", "--type", "F16"])
    finally:
        hub.close()
    assert result.exit_code == 0, result.exception
    assert [path.name for path in Path().iterdir()] == ["tiny-model-F16.gguf"], "the download is removed"
    found = GGUFReader("tiny-model-F16.gguf").fields
    assert found["edgeembed.source.repo"].contents() == "people/tiny-model"
    assert found["edgeembed.source.revision"].contents() == COMMIT


def test_an_unknown_source_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(convert, ["no-such-folder"])
    assert isinstance(result.exception, UnknownModelError)
    assert "neither a folder nor a repository" in result.exception.message
    assert list(Path().iterdir()) == []


def test_help_has_examples() -> None:
    text = CliRunner().invoke(convert, ["--help"]).output
    assert "edgeembed convert ./all-MiniLM-L6-v2 --type F16 -o minilm-f16.gguf\n" in text


STALLED = """
import sys, time
import edgeembed_convert.writer as writer
from edgeembed.cli.convert import convert

def stall(*rest):
    print("now", flush=True)
    time.sleep(60)

writer._write_tensor = stall
convert(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a terminated process without asking it")
def test_terminated_conversion_leaves_no_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    command = [sys.executable, "-c", STALLED, str(checkpoint), "-o", str(tmp_path / "tiny.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "now\n"
        assert list(tmp_path.glob(".tiny.gguf.*.tmp"))
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == [checkpoint]
