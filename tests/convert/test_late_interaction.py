"""ColBERT checkpoints: what their files say is in the converted file, or they are refused; rows are compared in the zoo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.engine.late_interaction import Expansion, LateInteraction, read_late_interaction
from edgeembed.errors import ConversionError
from edgeembed.hub.facts import facts_of
from edgeembed.hub.gguf.header import read_header
from tests.convert.pickled_files import write_pickled
from tests.convert.tiny_bert import edit_json, write_json, write_safetensors
from tests.convert.tiny_encoders import make_tiny_xlm_roberta, random_dense
from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.late_interaction import (
    HIDDEN,
    VECTOR,
    make_bert,
    make_edge,
    make_modern_bert,
    make_multi_vector,
    make_stanford,
    write_pylate,
)

Make = Callable[[Path], Path]


def vocabulary(folder: Path) -> dict[str, int]:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return content["model"]["vocab"] | {entry["content"]: entry["id"] for entry in content["added_tokens"]}


def reading(folder: Path) -> LateInteraction:
    header = read_header(convert_checkpoint(folder, folder.parent / "model.gguf", quantization="F32").path)
    values = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in header.values.items()}
    found = read_late_interaction(values.get, 2**24)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("make", "markers", "length"),
    [
        (make_bert, ("[unused0]", "[unused1]"), 32),
        (make_stanford, ("[unused0]", "[unused1]"), 32),
        (make_modern_bert, ("[Q] ", "[D] "), 48),
        (make_multi_vector, ("[Q] ", "[D] "), 32),
    ],
)
def test_markers_expansion_and_skipped_tokens(make: Make, markers: tuple[str, str], length: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "colbert")
    ids, found = vocabulary(folder), reading(folder)
    assert (found.query_marker, found.document_marker) == tuple(ids[marker] for marker in markers)
    assert found.expansion == Expansion(ids["[MASK]"], length, attended=False)
    assert {ids["."], ids["?"]} <= set(found.skipped)
    assert ids["a"] not in found.skipped
    assert (found.first, found.score) == (0, "sum")


def test_words_without_a_token_skip_the_unknown_token_as_in_pylate(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "colbert")
    assert vocabulary(folder)["[UNK]"] in reading(folder).skipped


def test_facts_of_a_file(tmp_path: Path) -> None:
    path = convert_checkpoint(make_edge(tmp_path / "colbert"), tmp_path / "model.gguf", quantization="F32").path
    facts = facts_of(read_header(path), path)
    assert (facts.outputs, facts.max_sim, facts.token_dimensions) == (("multi",), "sum", VECTOR)
    assert facts.max_seq_length == 300, "document_length"
    assert facts.prompts == {}


def test_a_model_without_expansion_or_markers(tmp_path: Path) -> None:
    folder = make_tiny_xlm_roberta(tmp_path / "colbert")
    write_pylate(folder, query_prefix="", document_prefix="", do_query_expansion=False, skiplist_words=[])
    assert reading(folder) == LateInteraction()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_prefix": "[X] "}, r"the prefix '\[X\] ' is no token"),
        ({"query_length": "32"}, "query_length = '32'; expected a number of tokens"),
        ({"document_length": True}, "document_length = True"),
        ({"do_query_expansion": 1}, "do_query_expansion = 1; expected true or false"),
        ({"skiplist_words": "!?"}, "skiplist_words = '!\\?'; expected a list of texts"),
        ({"similarity_fn_name": "XTR"}, "supported is only 'MaxSim'"),
        ({"prompts": {"query": "find: "}, "default_prompt_name": "query"}, "prompts of ColBERT models are not supported"),
        ({"pooling_factor": 2}, "unknown settings of a ColBERT model: pooling_factor"),
    ],
)
def test_settings_that_are_not_understood_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = make_modern_bert(tmp_path / "colbert")
    edit_json(folder / "config_sentence_transformers.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "twice", "length": 32}}, "strategy = 'twice'"),
        ("sentence_bert_config.json", {"query_expansion": {"length": 32, "where": "front"}}, "expected attend, length"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [7]}, "supported is only a list of words"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["query", "document"]}, "supported is only 'document'"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "xtr"}, "supported is only 'maxsim'"),
        ("config_sentence_transformers.json", {"prompts": {"query": "[Q] find: "}}, "prompts that are a token each"),
    ],
)
def test_settings_of_a_multi_vector_encoder_that_are_not_understood(
    file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = make_multi_vector(tmp_path / "colbert")
    edit_json(folder / file, **changes)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("missing", "message"),
    [("Normalize", "supported for vectors of length 1 only"), ("MultiVectorMask", "no effect on scores")],
)
def test_a_multi_vector_encoder_that_scores_otherwise_is_refused(missing: str, message: str, tmp_path: Path) -> None:
    folder = make_multi_vector(tmp_path / "colbert")
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", [entry for entry in entries if not entry["type"].endswith(missing)])
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(folder, tmp_path / "model.gguf")


def test_stanfords_settings_that_are_not_understood(tmp_path: Path) -> None:
    folder = make_stanford(tmp_path / "colbert")
    edit_json(folder / "artifact.metadata", similarity="l2")
    with pytest.raises(ConversionError, match="supported is only 'cosine'"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    edit_json(folder / "artifact.metadata", similarity="cosine", interaction="flipr")
    with pytest.raises(ConversionError, match="interaction = 'flipr'; supported is only 'colbert'"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    edit_json(folder / "artifact.metadata", interaction="colbert", mask_punctuation=False)
    assert reading(folder).skipped == ()


def test_a_projection_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "colbert")
    (weights,) = ({"linear.weight": np.zeros((VECTOR, HIDDEN - 1), dtype=np.float32)},)
    write_safetensors(folder / "1_Dense" / "model.safetensors", weights)
    edit_json(folder / "1_Dense" / "config.json", in_features=HIDDEN - 1)
    with pytest.raises(ConversionError, match="in_features is 63, but it gets rows of 64"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    edit_json(folder / "1_Dense" / "config.json", in_features=HIDDEN, scale=2)
    with pytest.raises(ConversionError, match="unknown settings of a Dense module: scale"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    write_json(folder / "1_Dense" / "config.json", {"in_features": HIDDEN, "out_features": VECTOR, "bias": False})
    with pytest.raises(ConversionError, match="activation_function = None"):  # PyLate and sentence-transformers disagree
        convert_checkpoint(folder, tmp_path / "model.gguf")


def test_an_expansion_that_cannot_be_computed_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_mpnet(tmp_path / "colbert")
    write_pylate(folder, query_prefix="", document_prefix="")
    with pytest.raises(ConversionError, match="cannot be computed for the architecture mpnet"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    edit_json(folder / "config_sentence_transformers.json", do_query_expansion=False)
    assert reading(folder).expansion is None


def test_a_head_of_bge_m3_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_xlm_roberta(tmp_path / "bge")
    head = random_dense(1, VECTOR, HIDDEN - 1, "x")
    write_pickled(folder / "colbert_linear.pt", {key.removeprefix("x."): tensor for key, tensor in head.items()})
    with pytest.raises(ConversionError, match="a token's state has 64 numbers"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
    write_pickled(folder / "colbert_linear.pt", {"weight": head["x.weight"]})
    with pytest.raises(ConversionError, match="expected weight and bias"):
        convert_checkpoint(folder, tmp_path / "model.gguf")
