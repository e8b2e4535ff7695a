"""Cross-encoders: scores equal those of transformers, including the token type of the second text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError, HubError
from edgeembed.hub.gguf.check import check_gguf
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.encoder_texts import PAIRS
from tests.convert.llama_scores import Scores, open_scores
from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.tiny_encoders import (
    make_tiny_cross_encoder,
    make_tiny_xlm_roberta_reranker,
    wordpiece_pieces,
)
from tests.convert.zoo.cross_encoders import make_electra, make_jina, make_modern_bert
from tests.convert.zoo.rows import Reference, read_rows
from tests.hub.gguf.parts import STRING, read, write

pytestmark = pytest.mark.model

MAKERS = {"cross_encoder": make_tiny_cross_encoder, "xlm_roberta_reranker": make_tiny_xlm_roberta_reranker}
MOST = {"F32": 1e-3, "F16": 2e-3, "Q8_0": 3e-2}


def keys_of(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def shifted(ids: Sequence[int], separator: int, offset: int) -> list[int]:
    """Return the ids of a pair as the daemon must compute them: those from the second text on are in the second half."""
    second = ids.index(separator) + 1
    return [*ids[:second], *(number + offset for number in ids[second:])]


def score(value: float, activation: str) -> float:
    return 1 / (1 + math.exp(-value)) if activation == "sigmoid" else value


@pytest.mark.parametrize("name", MAKERS)
def test_scores_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    checkpoint = MAKERS[name](tmp_path / "tiny")
    expected = read_rows(name, checkpoint)
    assert max(len(reference.ids) for reference in expected) > 100
    for quantization, most in MOST.items():
        result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization=quantization))
        assert (result.architecture, result.pooling) == ("bert", "rank")
        keys = keys_of(result.path)
        offset, activation = keys.get("edgeembed.rerank.second_segment", 0), keys["edgeembed.rerank.activation"]
        separator = keys["tokenizer.ggml.seperator_token_id"]
        with open_scores(result.path) as llama:
            for reference in expected:
                (found,) = llama.rank(shifted(reference.ids, separator, offset))
                error = abs(score(found, activation) - score(float(reference.value), activation))
                assert error <= most, (quantization, reference.kind, error)


def test_the_second_text_needs_its_token_type(tmp_path: Path) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    with open_scores(result.path) as llama:
        errors = [
            abs(llama.rank(reference.ids)[0] - float(reference.value))
            for reference in read_rows("cross_encoder", checkpoint)
        ]
    assert max(errors) > 0.5


def tokenize(llama: Scores, keys: dict[str, Any], reference: Reference) -> list[int]:
    """Fill the template of the file as the daemon must: special tokens come only from the template."""
    pieces: list[str] = keys["tokenizer.ggml.tokens"]
    ids: list[int] = []
    for part in keys["edgeembed.prompt.rerank"].replace("><", ">\n<").replace("{", "\n{").replace("}", "}\n").split("\n"):
        query, document = PAIRS[reference.kind]
        if part in ("{query}", "{document}"):
            ids.extend(llama.tokenize(part, query=query, document=document))
        elif part:
            ids.append(pieces.index(part))
    return ids


@pytest.mark.parametrize("name", MAKERS)
def test_a_filled_template_has_the_reference_ids(tmp_path: Path, name: str) -> None:
    checkpoint = MAKERS[name](tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    keys = keys_of(result.path)
    with open_scores(result.path) as llama:
        for reference in read_rows(name, checkpoint):
            # Non-Latin scripts need the engine's normaliser (edgeembed/engine/llama/wordpiece.py), not used here.
            if name == "cross_encoder" and not "".join(PAIRS[reference.kind]).isascii():
                continue
            assert tokenize(llama, keys, reference) == reference.ids, reference.kind


def test_bert_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    keys, count = keys_of(result.path), len(wordpiece_pieces())
    assert keys["bert.pooling_type"] == 4
    assert keys["bert.classifier.output_labels"] == ["LABEL_0"]
    assert keys["edgeembed.rerank.activation"] == "none"
    assert keys["edgeembed.rerank.second_segment"] == count
    assert keys["edgeembed.prompt.rerank"] == "[CLS]{query}[SEP]{document}[SEP]"
    assert keys["bert.vocab_size"] == len(set(keys["tokenizer.ggml.tokens"])) == 2 * count
    assert set(keys["tokenizer.ggml.token_type"][count:]) == {5}
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(result.path).tensors}
    types = tensors["token_types.weight"]
    assert np.allclose(
        tensors["token_embd.weight"][count:], tensors["token_embd.weight"][:count] + types[1] - types[0], atol=1e-6
    )
    assert tensors["cls.weight"].shape == (64, 64)
    assert tensors["cls.output.weight"].shape == (1, 64)

    small = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="Q8_0"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(small.path).tensors}
    assert {kinds[f"{name}.{end}"] for name in ("cls", "cls.output") for end in ("weight", "bias")} == {"F32"}
    assert kinds["token_embd.weight"] == "Q8_0"


def test_xlm_roberta_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_xlm_roberta_reranker(tmp_path / "tiny")
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    assert keys["edgeembed.prompt.rerank"] == "<s>{query}</s></s>{document}</s>"
    assert keys["edgeembed.rerank.activation"] == "sigmoid"
    # There is one token type, so both texts share the vocabulary.
    assert "edgeembed.rerank.second_segment" not in keys


def test_vocab_txt_gives_the_same_file(tmp_path: Path) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    first = keys_of(convert_checkpoint(checkpoint, tmp_path / "first.gguf", ConversionOptions(proof=False)).path)
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.txt").write_text("".join(f"{piece}\n" for piece in wordpiece_pieces()), encoding="utf-8")
    assert keys_of(convert_checkpoint(checkpoint, tmp_path / "second.gguf", ConversionOptions(proof=False)).path) == first


def test_no_second_half_for_models_without_token_types(tmp_path: Path) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    edit_json(checkpoint / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    assert "edgeembed.rerank.second_segment" not in keys
    assert keys["bert.vocab_size"] == len(wordpiece_pieces())


IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


@pytest.mark.parametrize(
    ("own", "newer", "older", "activation"),
    [
        (None, None, None, "sigmoid"),
        (None, None, IDENTITY, "none"),
        (None, {"activation_fn": SIGMOID}, IDENTITY, "sigmoid"),
        (None, {"version": "4.0.1"}, None, "sigmoid"),
        (IDENTITY, {"activation_fn": SIGMOID}, None, "none"),
    ],
)
def test_activation(tmp_path: Path, own: str | None, newer: Any, older: str | None, activation: str) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", sentence_transformers=newer, sbert_ce_default_activation_function=older)
    if own is not None:
        write_json(checkpoint / "config_sentence_transformers.json", {"activation_fn": own})
    keys = keys_of(convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").path)
    assert keys["edgeembed.rerank.activation"] == activation


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def modules(*kinds: str) -> Callable[[Path], object]:
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
    return lambda folder: write_json(folder / "modules.json", entries)


def pair(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(content["post_processor"])
        write_json(folder / "tokenizer.json", content)

    return edit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(id2label={"0": "no", "1": "yes"}), "config.json requires"),
        (config(id2label={"0": "no", "2": "yes"}), "expected a name for each of the numbers from 0 on"),
        (config(id2label=None, num_labels=2, type_vocab_size=3), "config.json requires"),
        (config(sentence_transformers={"activation_fn": "torch.nn.Tanh"}), r"the activation 'torch\.nn\.Tanh'"),
        (config(hidden_act="relu"), "hidden_act = 'relu'"),
        (config(position_embedding_type="relative_key"), "'relative_key'; llama.cpp's BERT supports only 'absolute'"),
        (modules("Transformer", "Dense"), "expected only Transformer"),
        (pair(lambda p: p.pop("pair")), "no template for a pair of query and document"),
        (pair(lambda p: p["pair"][0]["SpecialToken"].update(type_id=1)), r"unsupported token types \[1, 0, 0, 1, 1\]"),
        (pair(lambda p: p["pair"][0]["SpecialToken"].update(id="[X]")), "does not define the ids"),
    ],
)  # fmt: skip
def test_unsupported_checkpoints(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    checkpoint = make_tiny_cross_encoder(tmp_path / "tiny")
    change(checkpoint)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # What jina-embeddings-v3 has, in the same code.
        (config(lora_adaptations=["retrieval.query"]), "lora_adaptations"),
        (config(position_embedding_type="rotary"), "'rotary'; llama.cpp's BERT supports only 'absolute'"),
        (config(auto_map={"AutoModel": "modeling_xlm_roberta.XLMRobertaLoRA"}), "auto_map"),
    ],
)
def test_unsupported_checkpoints_of_jinas_code(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    checkpoint = make_jina(tmp_path / "tiny")
    change(checkpoint)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(classifier_pooling="max"), "classifier_pooling = 'max'"),
        (config(classifier_activation="silu"), "classifier_activation = 'silu'"),
        (config(classifier_bias=True), "classifier_bias = True"),
    ],
)
def test_unsupported_checkpoints_of_modern_bert(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    checkpoint = make_modern_bert(tmp_path / "tiny", "mean")
    change(checkpoint)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")


def test_a_classifier_of_another_function_is_checked_with_the_file(tmp_path: Path) -> None:
    """Its dense layers must compute as many numbers as are read."""
    file = convert_checkpoint(make_electra(tmp_path / "tiny", classifier=True), tmp_path / "tiny.gguf").path
    assert check_gguf(file).pooling == 4
    content = read(file.read_bytes())
    content.put("edgeembed.dense.1.outputs", 4, 2)
    content.put("edgeembed.dense.1.weight", STRING, b"AAAA" * (2 * 64 * 4 // 3) + b"AAA=")
    content.drop("edgeembed.dense.1.bias")
    (tmp_path / "two.gguf").write_bytes(write(content))
    with pytest.raises(HubError, match=r"edgeembed\.dense"):
        check_gguf(tmp_path / "two.gguf")
