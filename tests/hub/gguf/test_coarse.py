"""Files whose weights have so few bits that their vectors are far from those of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.cli.show import show
from edgeembed.hub.gguf.coarse import describe_coarse_weights
from edgeembed.hub.gguf.file import TensorInfo
from edgeembed.hub.gguf.frames import frame_of_foreign
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.hub.gguf.parts import read, write

KINDS = {"Q2_K": 10, "Q3_K": 11, "IQ3_S": 21, "IQ1_M": 29, "TQ1_0": 34, "TQ2_0": 35, "Q1_0": 41, "Q2_0": 42}
FINE = {"F32": 0, "Q4_0": 2, "Q4_K": 12, "IQ4_XS": 23, "Q8_0": 8, "MXFP4": 39}


def tensors(kind: int) -> list[TensorInfo]:
    return [
        TensorInfo("token_embd.weight", (256, 5000), 8, 0),
        TensorInfo("blk.0.attn_q.weight", (256, 256), kind, 0),
        TensorInfo("blk.0.attn_norm.weight", (256,), 0, 0),
        TensorInfo("output_norm.weight", (256,), 0, 0),
    ]


@pytest.mark.parametrize("name", KINDS)
def test_what_few_bits_cost_is_said(name: str) -> None:
    said = describe_coarse_weights(tensors(KINDS[name]))
    assert said is not None and said.startswith(f"most of its weights are {name}, ")


@pytest.mark.parametrize("name", FINE)
def test_four_bits_are_enough(name: str) -> None:
    assert describe_coarse_weights(tensors(FINE[name])) is None


def test_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path / "home"))
    file = read(make_tiny_qwen3(tmp_path / "tiny.gguf").read_bytes())
    for tensor in file.tensors:
        if len(tensor.shape) > 1 and tensor.shape[0] % 64 == 0:
            tensor.kind, tensor.data = KINDS["Q2_0"], bytes(len(tensor.data) // 4 * 18 // 64)
    path = tmp_path / "coarse.gguf"
    path.write_bytes(write(file))
    frame = frame_of_foreign(path)
    assert frame is not None and frame.coarse is not None and "2.2 bits each" in frame.coarse
    output = CliRunner(catch_exceptions=False).invoke(show, [str(path)]).output
    assert "coarse: most of its weights are Q2_0" in output
