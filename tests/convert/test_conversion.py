"""The content of converted files, read by the gguf package and computed by llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, LlamaFileType
from gguf.quants import dequantize

import edgeembed
from edgeembed.errors import ConversionError
from edgeembed_convert import QUANTIZATIONS
from tests.convert import numpy_bert
from tests.convert.gguf_fields import fields
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import (
    PIECES,
    edit_json,
    make_tiny_bert,
    read_raw_safetensors,
    tiny_weights,
    write_json,
    write_raw_safetensors,
    write_safetensors,
)
from tests.convert.tiny_encoders import make_tiny_xlm_roberta
from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert
from tests.convert.without_proof import convert_checkpoint

TEXT = "Hello world, the quick brown fox embeds über-cafes!"


def config_of(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return content


def test_metadata(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    result = convert_checkpoint(
        checkpoint,
        tmp_path / "tiny.gguf",
        quantization="f32",
        source_repo="people/tiny",
        source_revision="abc",
        name="Tiny",
    )
    found = fields(result.path)
    assert found.pop("tokenizer.ggml.tokens")[:9] == [*PIECES[:5], "▁hello", "▁world", "▁the", "▁quick"]
    assert found.pop("tokenizer.ggml.token_type") == [3] * 5 + [1] * (len(PIECES) - 5)
    assert found.pop("bert.attention.layer_norm_epsilon") == pytest.approx(1e-12)
    assert found == {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "Tiny",
        "general.size_label": "73K",
        "general.license": "apache-2.0",
        "general.file_type": LlamaFileType.ALL_F32,
        "general.quantization_version": 2,
        "bert.block_count": 2,
        "bert.context_length": 64,
        "bert.embedding_length": 64,
        "bert.feed_forward_length": 128,
        "bert.vocab_size": len(PIECES),
        "bert.attention.head_count": 4,
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_sep_token": True,
        "tokenizer.ggml.normalizer.lowercase": True,
        "tokenizer.ggml.normalizer.strip_accents": True,
        "edgeembed.converter.version": edgeembed.__version__,
        "edgeembed.source.repo": "people/tiny",
        "edgeembed.source.revision": "abc",
        "edgeembed.source.sha256": result.source_sha256,
    }
    assert result.size_bytes == result.path.stat().st_size
    assert (result.architecture, result.dimensions, result.pooling) == ("bert", 64, "mean")
    assert (result.quantization, result.fallbacks) == ("F32", [])


def test_tensors_equal_those_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", prefix="bert.")
    weights = tiny_weights(config_of(checkpoint))
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="Q8_0")
    tensors = {tensor.name: tensor for tensor in GGUFReader(result.path).tensors}
    assert len(tensors) == result.tensors == 5 + 2 * 16
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert {name for name, kind in types.items() if kind == "Q8_0"} == {"token_embd.weight"} | {
        f"blk.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    }
    assert {types["position_embd.weight"], types["token_types.weight"], types["blk.1.ffn_up.bias"]} == {"F32"}
    assert np.array_equal(tensors["position_embd.weight"].data, weights["embeddings.position_embeddings.weight"])
    assert np.array_equal(tensors["token_embd_norm.bias"].data, weights["embeddings.LayerNorm.bias"])
    wanted = weights["encoder.layer.1.output.dense.weight"]
    stored = dequantize(tensors["blk.1.ffn_down.weight"].data, tensors["blk.1.ffn_down.weight"].tensor_type)
    assert stored.shape == wanted.shape
    assert np.abs(stored - wanted).max() <= np.abs(wanted).max() / 127


# llama.cpp uses the tanh form of GELU and F16 tables; for the smaller types a rough check suffices.
LEAST = {"F32": 0.9999, "F16": 0.9999, "BF16": 0.9995, "Q8_0": 0.999}


@pytest.mark.model
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize(("mode", "pooling"), [("mean", "mean"), ("cls", "cls"), ("lasttoken", "last")])
def test_llama_computes_what_numpy_computes(tmp_path: Path, mode: str, pooling: str, quantization: str) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", pooling=mode)
    weights = tiny_weights(config_of(checkpoint))
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization=quantization)
    assert result.pooling == pooling
    with open_llama(result.path) as llama:
        for text in ("a", TEXT, "search " * 40):
            ids = llama.tokenize(text)
            expected = numpy_bert.embed(weights, 4, ids, pooling)
            assert cosine(llama.embed_ids(ids), expected) >= LEAST.get(quantization, 0.9), (text, ids)


@pytest.mark.model
@pytest.mark.parametrize("cased", [False, True])
def test_casing_and_accents(tmp_path: Path, cased: bool) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", cased=cased)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    pieces = ["[CLS]", "Hello", "über", "[UNK]", "[SEP]"] if cased else ["[CLS]", "hello", "uber", "ca", "##fe", "[SEP]"]
    with open_llama(result.path) as llama:
        assert llama.tokenize("Hello über Café") == [PIECES.index(piece) for piece in pieces]


@pytest.mark.model
def test_lower_casing_by_sentence_transformers(tmp_path: Path) -> None:
    """do_lower_case in sentence_bert_config.json lower-cases the input of a cased tokenizer, and keeps accents."""
    checkpoint = make_tiny_bert(tmp_path / "tiny", cased=True)
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": True})
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    with open_llama(result.path) as llama:
        assert llama.tokenize("Hello Über") == [PIECES.index(piece) for piece in ("[CLS]", "hello", "über", "[SEP]")]


@pytest.mark.parametrize(
    "make", [make_tiny_xlm_roberta, make_tiny_modern_bert, make_qwen3_checkpoint, make_gemma_checkpoint]
)
def test_lower_cased_input_is_refused_without_wordpiece(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "tiny")
    convert_checkpoint(tmp_path / "tiny", tmp_path / "before.gguf")
    write_json(tmp_path / "tiny" / "sentence_bert_config.json", {"do_lower_case": True})
    with pytest.raises(ConversionError, match=r"do_lower_case = true .* supported for WordPiece vocabularies only"):
        convert_checkpoint(tmp_path / "tiny", tmp_path / "tiny.gguf")


def test_differences_from_sentence_transformers_are_noted(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", context=64)
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 48})
    write_json(checkpoint / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")  # it has a Normalize module
    (length,) = result.notes
    assert "texts of up to 48 tokens" in length and "context_tokens allows up to 64" in length
    assert fields(result.path)["edgeembed.converter.notes"] == length
    assert fields(result.path)["edgeembed.max_seq_length"] == 48

    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    write_json(checkpoint / "modules.json", [module for module in modules if "Normalize" not in module["type"]])
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": 64})
    (similarity,) = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").notes
    assert "similarity_fn_name = 'dot'" in similarity and "vectors of length 1" in similarity
    assert "edgeembed.max_seq_length" not in fields(tmp_path / "tiny.gguf"), "it says nothing else than the positions"


@pytest.mark.parametrize(
    ("settings", "tokenizer", "wanted"),
    [
        ({"max_seq_length": 32}, 48, 32),
        ({}, 48, 48),
        ({"max_seq_length": None}, 48, 48),
        ({"max_seq_length": 32, "processor_kwargs": {"model_max_length": 16}}, 48, 16),
        ({}, 1000000000000000019884624838656, None),
        ({}, 1e30, None),
        ({}, 64, None),
        ({}, None, None),
    ],
)
def test_each_place_of_the_length_that_sentence_transformers_cuts_at(
    tmp_path: Path, settings: dict[str, Any], tokenizer: float | None, wanted: int | None
) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", context=64)
    write_json(checkpoint / "sentence_bert_config.json", settings)
    edit_json(checkpoint / "tokenizer_config.json", model_max_length=tokenizer)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert fields(result.path).get("edgeembed.max_seq_length") == wanted
    assert len(result.notes) == (wanted is not None)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_sources(tmp_path: Path, dtype: str) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", dtype=dtype)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="F32")
    weights = tiny_weights(config_of(checkpoint))
    stored = {tensor.name: tensor.data for tensor in GGUFReader(result.path).tensors}
    wanted = weights["embeddings.word_embeddings.weight"]
    if dtype == "F16":
        assert np.array_equal(stored["token_embd.weight"], wanted.astype(np.float16).astype(np.float32))
    else:
        assert np.array_equal(stored["token_embd.weight"], (wanted.view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_vocab_txt_gives_the_same_file_as_tokenizer_json(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    first = fields(convert_checkpoint(checkpoint, tmp_path / "first.gguf").path)
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    assert fields(convert_checkpoint(checkpoint, tmp_path / "second.gguf").path) == first


def test_shards_give_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    whole = convert_checkpoint(checkpoint, tmp_path / "whole.gguf")
    weights = tiny_weights(config_of(checkpoint))
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        write_safetensors(checkpoint / file, {name: weights[name] for name in held})
    weight_map = {name: file for file, held in shards.items() for name in held}
    write_json(checkpoint / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    parts = convert_checkpoint(checkpoint, tmp_path / "parts.gguf")
    assert parts.source_sha256 != whole.source_sha256
    pairs = zip(GGUFReader(whole.path).tensors, GGUFReader(parts.path).tensors, strict=True)
    assert all(one.name == two.name and np.array_equal(one.data, two.data) for one, two in pairs)


def test_new_pooling_config_and_transformer_in_its_own_folder(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    inner = checkpoint / "0_BERT"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).rename(inner / name)
    modules = [("0_BERT", "Transformer"), ("1_Pooling", "pooling.Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        checkpoint / "modules.json",
        [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules],
    )
    write_json(checkpoint / "1_Pooling" / "config.json", {"embedding_dimension": 64, "pooling_mode": "cls"})
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").pooling == "cls"


@pytest.mark.model
def test_tensors_of_other_types_are_reported(tmp_path: Path) -> None:
    """Rows of 48 are not a multiple of 32; rows of 128 are."""
    checkpoint = make_tiny_bert(tmp_path / "tiny", hidden=48, feed_forward=128)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="Q8_0")
    (note,) = result.fallbacks
    assert note.startswith("11 tensors with rows of 48 values are F16: Q8_0 needs a multiple of 32 (token_embd.weight, ")
    found = fields(result.path)
    assert found["edgeembed.converter.fallbacks"] == note
    # Most values are F16, so the file is not called Q8_0.
    assert result.quantization == "F16"
    assert found["general.file_type"] == LlamaFileType.MOSTLY_F16
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(result.path).tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.ffn_up.weight"]) == ("Q8_0", "F16")
    with open_llama(result.path) as llama:
        ids = llama.tokenize(TEXT)
        expected = numpy_bert.embed(tiny_weights(config_of(checkpoint)), 4, ids, "mean")
        assert cosine(llama.embed_ids(ids), expected) >= 0.999


def test_progress_reaches_its_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1]
    assert len({total for _, total in calls}) == 1


def test_user_defined_added_tokens_keep_their_spelling(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    number = content["model"]["vocab"].pop("search")
    content["added_tokens"].append({"id": number, "content": "<topic>", "special": False})
    write_json(checkpoint / "tokenizer.json", content)
    found = fields(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    assert (found["tokenizer.ggml.tokens"][number], found["tokenizer.ggml.token_type"][number]) == ("<topic>", 4)


def test_values_beyond_half_precision_need_another_type(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    header, data = read_raw_safetensors(checkpoint / "model.safetensors")
    begin, _ = header["embeddings.word_embeddings.weight"]["data_offsets"]
    big = np.float32(1e5).tobytes()
    write_raw_safetensors(checkpoint / "model.safetensors", header, data[:begin] + big + data[begin + 4 :])
    for quantization in ("F16", "Q8_0"):
        with pytest.raises(ConversionError, match=r"word_embeddings.*65504.*choose F32 or BF16"):
            convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization=quantization)
    assert not (tmp_path / "tiny.gguf").exists()
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", quantization="BF16")


def test_an_unknown_licence_is_omitted(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny")
    (checkpoint / "README.md").unlink()
    assert "general.license" not in fields(convert_checkpoint(checkpoint, tmp_path / "one.gguf").path)
    assert fields(convert_checkpoint(checkpoint, tmp_path / "two.gguf", license="mit").path)["general.license"] == "mit"


def test_the_head_of_masked_language_models_is_dropped(tmp_path: Path) -> None:
    checkpoint = make_tiny_bert(tmp_path / "tiny", prefix="bert.")
    edit_json(checkpoint / "config.json", architectures=["BertForMaskedLM"])
    weights = {f"bert.{name}": tensor for name, tensor in tiny_weights(config_of(checkpoint)).items()}
    weights["cls.predictions.bias"] = np.zeros(len(PIECES), dtype=np.float32)
    old_names = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in weights.items()}
    write_safetensors(checkpoint / "model.safetensors", old_names)
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").tensors == 37
