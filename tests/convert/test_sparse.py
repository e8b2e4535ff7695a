"""Sparse checkpoints: what a user says and gets, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.engine.float_strings import decode_floats
from edgeembed.errors import ConversionError
from tests.convert.pickled_files import write_pickled
from tests.convert.tiny_bert import edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta, write_heads
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.sparse import config_of, head_weights, make_bert, make_bert_masked, make_gte, make_inference_free

pytestmark = pytest.mark.model
_NAMES = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")


def convert(checkpoint: Path, **options: object) -> GGUFReader:
    conversion = convert_checkpoint(checkpoint, checkpoint.parent / "model.gguf", quantization="F32", **options)
    return GGUFReader(conversion.path)


def outputs(file: GGUFReader) -> str | None:
    field = file.fields.get("edgeembed.outputs")
    return str(field.contents()) if field else None


def test_a_masked_language_model_without_modules_says_how_to_make_it_sparse(tmp_path: Path) -> None:
    checkpoint = make_bert_masked(tmp_path / "checkpoint")
    (checkpoint / "modules.json").unlink(missing_ok=True)
    with pytest.raises(ConversionError, match="if this is a SPLADE model, say so with --pooling splade"):
        convert(checkpoint)
    assert outputs(convert(checkpoint, pooling="splade")) == "sparse"


def test_an_embedder_is_not_made_sparse(tmp_path: Path) -> None:
    checkpoint = make_tiny_xlm_roberta(tmp_path / "checkpoint")
    with pytest.raises(ConversionError, match="Transformer, Pooling, Normalize are not those of a SPLADE model"):
        convert(checkpoint, pooling="splade")


def test_a_model_without_the_head_is_refused(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "checkpoint")
    write_safetensors(checkpoint / "model.safetensors", tiny_weights(config_of(checkpoint)))
    with pytest.raises(ConversionError, match="no head of a masked language model"):
        convert(checkpoint)


def test_a_pickled_copy_of_the_embeddings_is_the_same_head(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "checkpoint")
    config = config_of(checkpoint)
    weights = {f"bert.{name}": tensor for name, tensor in tiny_weights(config).items()}
    head = head_weights(*_NAMES, config["vocab_size"])
    matrix = {"cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"]}
    bias = {"cls.predictions.decoder.bias": head["cls.predictions.bias"]}
    (checkpoint / "model.safetensors").unlink()
    write_pickled(checkpoint / "pytorch_model.bin", weights | head | matrix | bias)
    assert outputs(convert(checkpoint)) == "sparse"
    write_pickled(checkpoint / "pytorch_model.bin", weights | head | {name: -tensor for name, tensor in matrix.items()})
    with pytest.raises(ConversionError, match=r"a matrix of its own \(cls.predictions.decoder.weight\)"):
        convert(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_strategy": "mean"}, "pooling_strategy = 'mean'; expected one of max, sum"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu'; expected one of relu, log1p_relu"),
        ({"top_k": 7}, "unknown settings of SpladePooling: top_k"),
    ],
)
def test_settings_of_the_pooling(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "checkpoint")
    edit_json(checkpoint / "1_SpladePooling" / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint)


def test_a_note_says_that_all_weights_are_returned(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "checkpoint")
    write_json(checkpoint / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "max_active_dims": 64})
    conversion = convert_checkpoint(checkpoint, tmp_path / "model.gguf", quantization="F32")
    assert any("keeps the 64 largest weights" in note for note in conversion.notes)


def test_the_weights_of_queries_are_in_the_file_without_those_of_the_tokens_around_a_text(tmp_path: Path) -> None:
    checkpoint = make_inference_free(tmp_path / "checkpoint")
    file = convert(checkpoint)
    weights = decode_floats(file.fields["edgeembed.sparse.query.weights"].contents())
    assert np.count_nonzero(weights) > len(weights) // 2
    assert not weights[[2, 3]].any()  # [CLS] and [SEP]


def test_a_router_with_another_model_for_queries_is_refused(tmp_path: Path) -> None:
    checkpoint = make_inference_free(tmp_path / "checkpoint")
    file = checkpoint / "router_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    (query,) = config["structure"]["query"]
    config["types"][query] = "sentence_transformers.models.MLMTransformer"
    write_json(file, config)
    with pytest.raises(ConversionError, match="queries are read by the modules MLMTransformer"):
        convert(checkpoint)


def test_another_tokenizer_for_queries_is_refused(tmp_path: Path) -> None:
    checkpoint = make_inference_free(tmp_path / "checkpoint")
    (folder,) = checkpoint.glob("query*")
    documents = next(file for file in checkpoint.rglob("tokenizer.json") if file.parent != folder)
    (folder / "tokenizer.json").write_bytes(documents.read_bytes())
    assert outputs(convert(checkpoint)) == "sparse"
    edit_json(folder / "tokenizer.json", normalizer=None)
    with pytest.raises(ConversionError, match="queries are read by another tokenizer"):
        convert(checkpoint)


def test_a_router_with_other_routes_is_refused(tmp_path: Path) -> None:
    checkpoint = make_inference_free(tmp_path / "checkpoint")
    file = checkpoint / "router_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["structure"]["image"] = config["structure"]["query"]
    write_json(file, config)
    with pytest.raises(ConversionError, match="the routes 'query', 'document', 'image'; supported are"):
        convert(checkpoint)


def test_weights_by_token_must_be_of_the_vocabulary(tmp_path: Path) -> None:
    checkpoint = make_inference_free(tmp_path / "checkpoint", table=True)
    (table,) = checkpoint.rglob("idf.json")
    edit_json(table, nowhere=1.5)
    with pytest.raises(ConversionError, match="'nowhere' is not a token of the vocabulary"):
        convert(checkpoint)


def test_plain_files_with_weights_of_queries_are_not_guessed(tmp_path: Path) -> None:
    checkpoint = make_bert_masked(tmp_path / "checkpoint")
    (checkpoint / "modules.json").unlink(missing_ok=True)
    write_json(checkpoint / "idf.json", {"hello": 1.0})
    with pytest.raises(ConversionError, match=r"without modules\.json it is unknown how documents are read"):
        convert(checkpoint, pooling="splade")


def test_weights_of_tokens_beside_an_encoder(tmp_path: Path) -> None:
    checkpoint = write_heads(make_tiny_xlm_roberta(tmp_path / "checkpoint"), 64)
    file = convert(checkpoint)
    assert outputs(file) == "dense,multi,sparse"
    assert file.fields["edgeembed.sparse.excluded"].contents() == "0,1,2,3"
    write_pickled(checkpoint / "sparse_linear.pt", {"weight": np.ones((2, 64), np.float32), "bias": np.ones(2, np.float32)})
    with pytest.raises(ConversionError, match=r"weights of tokens have the shapes \[2, 64\] and \[2\]"):
        convert(checkpoint)


def test_the_head_of_gte_is_read(tmp_path: Path) -> None:
    file = convert(make_gte(tmp_path / "checkpoint"))
    assert outputs(file) == "sparse"
    assert file.fields["edgeembed.sparse.logarithms"].contents() == 2


def test_a_cross_encoder_has_no_other_outputs(tmp_path: Path) -> None:
    assert outputs(convert(write_heads(make_tiny_cross_encoder(tmp_path / "checkpoint"), 64))) is None
