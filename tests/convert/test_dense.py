"""Dense modules of sentence-transformers: which are converted, and the reasons for which others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed.hub.gguf.frames import read_frame
from edgeembed.hub.gguf.header import read_header
from tests.convert.tiny_bert import edit_json, make_tiny_bert, write_json, write_safetensors
from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.modules import add_dense, write_dense

DENSE = "9_Dense"


def _edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / DENSE / "config.json", **changes)


def _move(folder: Path, order: str) -> None:
    """Write the modules in another order, given by their first letters."""
    modules = {module["type"].rpartition(".")[2][0]: module for module in json.loads((folder / "modules.json").read_text())}
    write_json(folder / "modules.json", [modules[letter] for letter in order])


def _normalize_before(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    end = {"idx": 3, "name": "3", "path": "", "type": "sentence_transformers.models.Normalize"}
    write_json(folder / "modules.json", [*modules[:2], end, modules[2]])


def _unlike(folder: Path) -> None:
    write_dense(folder / DENSE, 63, 24, bias=True, activation="torch.nn.modules.activation.Tanh")


def _without_weights(folder: Path) -> None:
    (folder / DENSE / "model.safetensors").unlink()


def _infinite(folder: Path) -> None:
    weights = {"linear.weight": np.full((24, 64), np.inf, np.float32), "linear.bias": np.zeros(24, np.float32)}
    write_safetensors(folder / DENSE / "model.safetensors", weights)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _edit(activation_function="torch.nn.modules.activation.Sigmoid"),
            "supported are torch.nn's Identity, Tanh, ReLU, GELU",
        ),
        (_edit(activation_function="own.Tanh"), "supported are torch.nn's"),
        (_edit(bias=False), r"expected \['linear.weight'\]"),
        (_edit(out_features=23), r"it must be \[23, 64\]"),
        (_edit(module_output_name="token_embeddings"), "a Dense of the vector"),
        (_edit(use_residual=True), "unknown settings of a Dense module: use_residual"),
        (lambda folder: _move(folder, "TDP"), "must be between Pooling and Normalize"),
        (_normalize_before, "must be between Pooling and Normalize"),
        (_unlike, "in_features is 63, but it gets rows of 64"),
        (_without_weights, "safetensors"),
        (_infinite, "NaN or infinity"),
    ],
)
def test_other_dense_modules_are_refused(tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    folder = make_tiny_bert(tmp_path / "tiny")
    add_dense(folder, 64, 24)
    change(folder)
    with pytest.raises(ConversionError, match=said):
        convert_checkpoint(folder, tmp_path / "tiny.gguf", quantization="F32")
    assert not list(tmp_path.glob("*.gguf"))


def test_the_file_says_how_long_its_vectors_are(tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "tiny")
    add_dense(folder, 64, 24)
    found = convert_checkpoint(folder, tmp_path / "tiny.gguf", quantization="F16")
    assert found.dimensions == 24
    assert read_header(found.path).dimensions == 24
    assert read_frame(found.path).dense == 1
    assert any("Dense layers" in note for note in found.notes)
    # llama.cpp refuses a file with tensors that its graph does not use.
    assert not any("dense" in tensor.name for tensor in GGUFReader(found.path).tensors)


def test_a_file_type_of_llama_cpp_keeps_them(tmp_path: Path) -> None:
    folder = make_tiny_bert(tmp_path / "tiny")
    add_dense(folder, 64, 24)
    assert read_header(convert_checkpoint(folder, tmp_path / "tiny.gguf", quantization="Q4_K_M").path).dimensions == 24


def test_dense_modules_of_embedding_gemma_that_its_graph_does_not_have(tmp_path: Path) -> None:
    folder = make_gemma_checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "2_Dense" / "config.json").read_text())
    write_dense(
        folder / "2_Dense",
        config["in_features"],
        config["out_features"],
        bias=True,
        activation="torch.nn.modules.activation.Tanh",
    )
    found = convert_checkpoint(folder, tmp_path / "tiny.gguf", quantization="F32")
    assert not any("dense" in tensor.name for tensor in GGUFReader(found.path).tensors)
    assert read_frame(found.path).dense == 2
