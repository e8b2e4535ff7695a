"""Quantisation types that llama.cpp writes, the file of unquantised weights, canary rows in every file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGUFReader

from edgeembed.engine import canary
from edgeembed.errors import ConversionError
from edgeembed_convert import QUANTIZATIONS, ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import make_tiny_bert

TEXTS = ["hello world", "the quick brown fox embeds the search world"]


def value(file: Path, key: str) -> object:
    field = GGUFReader(file).fields.get(key)
    return None if field is None else field.contents()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows fit every type."""
    return make_tiny_bert(tmp_path_factory.mktemp("checkpoint") / "tiny", hidden=256, feed_forward=512, layers=3)


@pytest.mark.model
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_type_has_canary_rows_of_the_unquantised_weights(quantization: str, checkpoint: Path, tmp_path: Path) -> None:
    result = convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization=quantization))
    assert (result.quantization, result.fallbacks) == (quantization, [])
    assert list(tmp_path.iterdir()) == [tmp_path / "model.gguf"], "the file of the unquantised weights is removed"
    assert result.size_bytes == result.path.stat().st_size
    texts = value(result.path, canary.TEXTS_KEY)
    assert isinstance(texts, str) and json.loads(texts) == list(canary.TEXTS)
    expected = canary.read_rows(texts, str(value(result.path, canary.ROWS_KEY)))
    assert expected
    with open_llama(result.path) as model:
        cosines = [cosine(model.embed(str(text)), row) for text, row in expected]
    assert min(cosines) > canary.least_for(quantization.replace("_M", ""))
    if quantization == "F32":
        assert min(cosines) > 0.99999


def test_mixtures_are_those_of_llama_cpp_and_small_tensors_are_f32(checkpoint: Path, tmp_path: Path) -> None:
    result = convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_K_M", proof=False))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(result.path).tensors}
    assert {kinds["position_embd.weight"], kinds["token_types.weight"], kinds["blk.0.attn_q.bias"]} == {"F32"}
    assert kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert "Q6_K" in kinds.values()
    assert value(result.path, "general.file_type") == 15  # llama.h: LLAMA_FTYPE_MOSTLY_Q4_K_M


def test_rows_that_do_not_fit_a_mixture_are_reported(tmp_path: Path) -> None:
    narrow = make_tiny_bert(tmp_path / "narrow", hidden=64, feed_forward=128)
    result = convert_checkpoint(narrow, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_K_M", proof=False))
    assert result.quantization == "Q5_0", "the type of most values"
    assert any("rows of 64 values cannot be Q4_K_M" in sentence and "Q5_0" in sentence for sentence in result.fallbacks)
    assert "rows of 64" in str(value(result.path, "edgeembed.converter.fallbacks"))
    assert value(result.path, "general.file_type") == 8  # LLAMA_FTYPE_MOSTLY_Q5_0


@pytest.mark.model
def test_the_file_of_unquantised_weights_can_be_kept(checkpoint: Path, tmp_path: Path) -> None:
    master = tmp_path / "master.gguf"
    convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_K_M", master=master))
    with open_llama(master) as unquantised, open_llama(tmp_path / "model.gguf") as quantised:
        for text in TEXTS:
            assert 0.9 < cosine(unquantised.embed(text), quantised.embed(text)) < 0.99999
    assert value(master, "general.file_type") == 0
    assert value(master, canary.ROWS_KEY) == value(tmp_path / "model.gguf", canary.ROWS_KEY)


@pytest.mark.model
def test_a_failure_of_llama_cpp_leaves_no_file(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: object, progress: object) -> None:
        raise ConversionError("model.gguf cannot be quantised: no memory")

    monkeypatch.setattr("edgeembed_convert.conversion.run_job", broken)
    with pytest.raises(ConversionError, match="no memory"):
        convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q4_K_M"))
    assert list(tmp_path.iterdir()) == []


def test_without_proof_there_are_no_canary_rows(checkpoint: Path, tmp_path: Path) -> None:
    convert_checkpoint(checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="F32", proof=False))
    assert value(tmp_path / "model.gguf", canary.ROWS_KEY) is None


def test_progress_reaches_the_end(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert_checkpoint(
        checkpoint,
        tmp_path / "model.gguf",
        ConversionOptions(quantization="Q4_K_M", proof=False),
        progress=lambda *step: seen.append(step),
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(("dtype", "number"), [("F32", 0), ("F16", 1), ("BF16", 32)])
def test_the_file_of_unquantised_weights_is_lossless(dtype: str, number: int, tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", dtype=dtype)
    master = tmp_path / "master.gguf"
    convert_checkpoint(
        checkpoint, tmp_path / "model.gguf", ConversionOptions(quantization="Q8_0", master=master, proof=False)
    )
    assert value(master, "general.file_type") == number


@pytest.mark.model
def test_conversions_are_deterministic(checkpoint: Path, tmp_path: Path) -> None:
    files = [
        convert_checkpoint(checkpoint, tmp_path / name, ConversionOptions(quantization="Q8_0")).path
        for name in ("a.gguf", "b.gguf")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
