"""Forms of a checkpoint's files: prefixes of tensor names, and weights in fp8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert.views import row_range
from edgeembed_convert.weights import StoredTensor, open_weights
from tests.convert.tiny_bert import edit_json, make_tiny_bert, read_raw_safetensors, write_json, write_raw_safetensors
from tests.convert.tiny_encoders import make_tiny_xlm_roberta
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.files import e4m3_values, make_fp8

WORD = "embeddings.word_embeddings.weight"


def rename(folder: Path, names: Mapping[str, str]) -> None:
    """Put prefixes before the names of tensors that begin with something."""
    file = folder / "model.safetensors"
    header, data = read_raw_safetensors(file)
    del header["__metadata__"]
    renamed = {}
    for name, entry in header.items():
        begin = next((begin for begin in names if name.startswith(begin)), None)
        renamed[names[begin] + name if begin is not None else name] = entry
    write_raw_safetensors(file, renamed, data)


@pytest.mark.parametrize("prefix", ["0.auto_model.", "model.", "bert.", "encoder.", "module.model.bert.", "a.0.b."])
def test_a_prefix_of_all_names_is_removed(tmp_path: Path, prefix: str) -> None:
    plain = convert_checkpoint(make_tiny_bert(tmp_path / "plain"), tmp_path / "plain.gguf", quantization="F32")
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    rename(checkpoint, {"embeddings.": prefix, "encoder.": prefix, "pooler.": prefix})
    found = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="F32")
    for left, right in zip(GGUFReader(plain.path).tensors, GGUFReader(found.path).tensors, strict=True):
        assert left.name == right.name and np.array_equal(left.data, right.data)


def test_tensors_outside_the_prefix_are_not_lost(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    rename(checkpoint, {"embeddings.": "0.auto_model.", "encoder.": "0.auto_model.", "pooler.": "2.linear."})
    with pytest.raises(ConversionError, match=r"2 tensors do not belong to a BERT encoder.*2\.linear\.pooler"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_two_models_in_one_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    rename(checkpoint, {"": "query."})
    file = checkpoint / "model.safetensors"
    header, data = read_raw_safetensors(file)
    second = {**header[f"query.{WORD}"], "data_offsets": [len(data), 2 * len(data)], "dtype": "U8", "shape": [len(data)]}
    write_raw_safetensors(file, {**header, f"document.{WORD}": second}, data * 2)
    with pytest.raises(ConversionError, match=r"several times, after 'document\.', 'query\.': they are those of several"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


# --- fp8 ----------------------------------------------------------------------------------------------------------------

FIRST = "layers.0.mlp.up_proj.weight"


def change(folder: Path, name: str, **entry: Any) -> None:
    file = folder / "model.safetensors"
    header, data = read_raw_safetensors(file)
    header[name] |= entry
    write_raw_safetensors(file, header, data)


def remove(folder: Path, name: str) -> None:
    file = folder / "model.safetensors"
    header, data = read_raw_safetensors(file)
    header[f"unused.{name}"] = header.pop(name)
    write_raw_safetensors(file, header, data)


def test_a_scale_for_the_whole_tensor_and_blocks_that_end_early(tmp_path: Path) -> None:
    values = np.arange(15, dtype=np.uint8).reshape(3, 5) | 0x38
    header: dict[str, Any] = {}
    data = bytearray()
    scales = np.array([[2, 4, 8], [16, 32, 64]], np.float32)
    for name, tensor, dtype in (("x", values, "F8_E4M3"), ("x_scale", scales, "F32"), ("y", values[:1], "F8_E4M3")):
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + tensor.nbytes]}
        data.extend(tensor.tobytes())
    one = np.float32(0.5)
    header["y_scale"] = {"dtype": "F32", "shape": [], "data_offsets": [len(data), len(data) + 4]}
    write_raw_safetensors(tmp_path / "model.safetensors", header, bytes(data) + one.tobytes())
    from edgeembed_convert.fp8 import dequantized

    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}
    found = dequantized(open_weights(tmp_path), config, tmp_path / "config.json").tensors
    assert set(found) == {"x", "y"}
    decoded = e4m3_values()[values]
    expected = decoded * np.repeat(np.repeat(scales, 2, 0)[:3], 2, 1)[:, :5]
    assert np.array_equal(rows_of(found["x"]), expected)
    assert np.array_equal(rows_of(row_range(found["x"], 1, 3)), expected[1:])
    assert np.array_equal(rows_of(row_range(row_range(found["x"], 1, 3), 1, 2)), expected[2:])
    assert np.array_equal(np.concatenate(list(found["x"].rows(chunk_bytes=1))), expected)
    assert np.array_equal(rows_of(found["y"]), decoded[:1] / 2)


def rows_of(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    return np.concatenate(list(tensor.rows()))


def test_all_values_of_both_types(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(128)))
    tensor = StoredTensor("x", tmp_path / "x", "F8_E4M3", (1, 127), 0)
    assert np.array_equal(rows_of(tensor)[0], e4m3_values())
    assert rows_of(replace(tensor, dtype="F8_E5M2", shape=(1, 124)))[0, [0, 1, 4, 60, 123]].tolist() == [
        0, 2**-16, 2**-14, 1, 57344,
    ]  # fmt: skip
    for dtype, length in (("F8_E4M3", 128), ("F8_E5M2", 125)):
        with pytest.raises(ConversionError, match="NaN or infinity"):
            rows_of(replace(tensor, dtype=dtype, shape=(1, length)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda folder: remove(folder, f"{FIRST}_scale_inv"), f"tensor {FIRST} is in fp8, with no scale"),
        (lambda folder: change(folder, f"{FIRST}_scale_inv", shape=[2, 4]), r"\[2, 4\], which does not fit"),
        (
            lambda folder: edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"}),
            "does not fit .* and the blocks in config.json, none",
        ),
        (lambda folder: edit_json(folder / "config.json", quantization_config=None), "do not belong to a Qwen3"),
    ],
)
def test_malformed_fp8(tmp_path: Path, broken: Any, message: str) -> None:
    checkpoint = make_fp8(tmp_path / "tiny")
    broken(checkpoint)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()


# --- Git LFS ------------------------------------------------------------------------------------------------------------

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa51172d142c89\nsize 90868376\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json", "sentencepiece.bpe.model"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    newer = {"pytorch_model.bin": "model.safetensors", "sentencepiece.bpe.model": "tokenizer.json"}
    (checkpoint / newer.get(name, name)).unlink()
    (checkpoint / name).write_text(POINTER, encoding="utf-8")
    with pytest.raises(ConversionError, match=rf"{name}: not the file itself, but a pointer of Git LFS.*git lfs pull"):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


# --- poolings -----------------------------------------------------------------------------------------------------------


def test_mean_sqrt_len_is_mean_of_another_length(tmp_path: Path) -> None:
    result = convert_checkpoint(make_tiny_bert(tmp_path / "tiny", pooling="mean_sqrt_len_tokens"), tmp_path / "tiny.gguf")
    assert result.pooling == "mean"
    checkpoint = make_tiny_bert(tmp_path / "new")
    write_json(checkpoint / "1_Pooling" / "config.json", {"pooling_mode": "mean_sqrt_len_tokens", "embedding_dimension": 64})
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").pooling == "mean"
