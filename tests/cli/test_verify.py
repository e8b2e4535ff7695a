"""Exit statuses of `edgeembed verify`; what it measures is tested in tests/diagnostics/test_verify.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click import UsageError
from click.testing import CliRunner

from edgeembed.cli.verify import verify
from edgeembed.errors import UnknownModelError
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.cli.helpers import edgeembed, install
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.without_proof import convert_checkpoint as convert_without_proof
from tests.hub.fakes import gguf_bytes

pytestmark = pytest.mark.model


def test_changed_weights_are_status_1(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", hidden=256, feed_forward=512, context=256)
    file = tmp_path / "bad.gguf"
    convert_checkpoint(checkpoint, file, ConversionOptions(quantization="Q8_0"))
    content = bytearray(file.read_bytes())
    content[-20_000:-10_000] = bytes(10_000)  # the last layer's weights
    file.write_bytes(content)
    done = edgeembed("verify", str(file), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "canary rows are too far" in done.stderr and "Traceback" not in done.stderr


def test_nothing_to_compare_with_is_status_3(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", hidden=64, feed_forward=128, context=64)
    file = tmp_path / "bare.gguf"
    convert_without_proof(checkpoint, file, quantization="F32")
    done = edgeembed("verify", str(file))
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1].startswith("NOT VERIFIED: ")
    assert "holds" not in done.stdout
    told = edgeembed("verify", str(file), "--json")
    assert (told.returncode, json.loads(told.stdout)["holds"]) == (3, None)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["nobody"], UnknownModelError, "no model is named 'nobody'"),
        (["./no-such.gguf"], UnknownModelError, "there is no file"),
        (["mine", "--types", "Q4_0"], UnknownModelError, "mine is installed as Q8_0 only, not as F32"),
        (["./mine.gguf", "--types", "Q8_0"], UsageError, "the name of a model, not a file"),
    ],
)
def test_a_model_that_cannot_be_verified_is_status_2(
    arguments: list[str], error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("mine", "Q8_0")
    (tmp_path / "mine.gguf").write_bytes(gguf_bytes(general__architecture="bert"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says) as raised:
        CliRunner(catch_exceptions=False).invoke(verify, arguments, standalone_mode=False)
    assert raised.value.exit_code == 2  # type: ignore[attr-defined]
