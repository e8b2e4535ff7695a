"""XLM-RoBERTa: keys and checks. The rows are compared in the zoo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import open_llama
from tests.convert.tiny_bert import edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import TOKENS, make_tiny_xlm_roberta

pytestmark = pytest.mark.model


def test_positions_begin_after_the_padding_id(tmp_path: Path) -> None:
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    weights = tiny_weights(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    reader = GGUFReader(result.path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert np.array_equal(tensors["position_embd.weight"], weights["embeddings.position_embeddings.weight"][2:])
    keys = {name: field.contents() for name, field in reader.fields.items()}
    assert keys["bert.context_length"] == TOKENS
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (0, 2)
    assert keys["tokenizer.ggml.tokens"][-4:] == [
        "<mask>",
        *(f"<unused {len(keys['tokenizer.ggml.tokens']) - n}>" for n in (3, 2, 1)),
    ]
    assert keys["tokenizer.ggml.token_type"][:5] == [3, 3, 3, 2, 1]
    assert keys["tokenizer.ggml.token_type"][-4:] == [3, 5, 5, 5]


def test_the_head_of_masked_language_models_is_dropped(tmp_path: Path) -> None:
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", architectures=["XLMRobertaForMaskedLM"])
    weights = tiny_weights(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    renamed = {f"roberta.{name}": tensor for name, tensor in weights.items()}
    write_safetensors(checkpoint / "model.safetensors", {**renamed, "lm_head.bias": np.zeros(9, dtype=np.float32)})
    assert convert_checkpoint(checkpoint, tmp_path / "tiny.gguf").tensors == 37


def test_bert_with_a_unigram_vocabulary(tmp_path: Path) -> None:
    """multilingual-e5-small and the multilingual MiniLM are BertModel with XLM-RoBERTa's tokenizer: positions from 0."""
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", architectures=["BertModel"], model_type="bert", pad_token_id=0)
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32"))
    reader = GGUFReader(result.path)
    assert reader.fields["bert.context_length"].contents() == TOKENS + 2
    with open_llama(result.path) as llama:
        ids = llama.tokenize("The river")
        assert (ids[0], ids[-1]) == (0, 2)


MERGES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
STRIPS = {"type": "Strip", "strip_left": False, "strip_right": True}
SPACES = [
    "hello world ", " hello", "hello  world", "hello\n", " ", "  ", "\n\nhello\t\tworld \n", "hello\u3000world",
    "hello \u00a0", "hello\u2581 ", "hello\u2581", "a\u200bb", "a \u200b", "a  b   c", "   a  b",
    "the middle", "the  middle ",
]  # fmt: skip


@pytest.mark.parametrize("steps", [[], [MERGES], [STRIPS, MERGES]], ids=["kept", "merged", "stripped"])
@pytest.mark.parametrize("words", [False, True], ids=["spaces kept", "split at spaces"])
@pytest.mark.parametrize("added", [False, True], ids=["", "added token"])
def test_white_space_is_read_as_the_tokenizers_library_does(
    tmp_path: Path, steps: list[dict[str, Any]], words: bool, added: bool
) -> None:
    """Some checkpoints, such as bge-m3, have a token for white space at the end of a text, which llama.cpp drops."""
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], *steps]}
    if not words:
        content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    if added:
        number = [piece for piece, _ in content["model"]["vocab"]].index("middle")
        content["added_tokens"].append({**content["added_tokens"][0], "id": number, "content": "middle", "special": False})
    write_json(checkpoint / "tokenizer.json", content)
    library = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    library.encode_special_tokens = True
    result = convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="F32", proof=False))
    with open_llama(result.path) as llama:
        for text in SPACES:
            assert llama.tokenize(text) == library.encode(text).ids, ascii(text)
        for text in [*SPACES, "a \u200b ", *(f"{text}x{text}" for text in SPACES)]:
            assert llama.spans(text).shape == (len(llama.tokenize(text)), 2)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"].update(byte_fallback=True), "byte_fallback is not supported"),
        (lambda t: t["model"].update(type="BPE"), "the tokenizer's model is 'BPE'"),
        (lambda t: t["model"].update(unk_id=None), "unk_id = None"),
        (lambda t: t["model"]["vocab"].append(["x", "1"]), "must be a list of pieces with scores"),
        (lambda t: t["model"]["vocab"].append(t["model"]["vocab"][9]), "duplicate piece"),
        (lambda t: t["model"].update(vocab=t["model"]["vocab"] + [[f"x{n}", 0.0] for n in range(9)]), "but vocab_size"),
        (lambda t: t["model"].update(vocab=t["model"]["vocab"][:50]), "the id 364, which belongs to another piece"),
        (lambda t: t["normalizer"].update(precompiled_charsmap="?"), "not base64"),
        (lambda t: t["normalizer"].update(precompiled_charsmap="/////wAA"), "precompiled_charsmap is truncated"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "normaliser 'Lowercase' is not supported"),
        (
            lambda t: t.update(
                normalizer={"type": "Strip", "strip_right": True}, pre_tokenizer=t["pre_tokenizer"]["pretokenizers"][1]
            ),
            "strips white space, but does not merge it",
        ),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "supports only Metaspace"),
        (
            lambda t: t["added_tokens"].append({"id": 30, "content": t["model"]["vocab"][30][0], "single_word": True}),
            "has single_word = true",
        ),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(prepend_scheme="never"), "Metaspace must"),
        (lambda t: t["post_processor"]["single"].pop(), "expected one token after a text, and at most one before"),
        (lambda t: t["post_processor"].update(type="ByteLevel"), "the post-processor 'ByteLevel'"),
    ],
)
def test_unsupported_tokenizers(tmp_path: Path, change: Change, message: str) -> None:
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    write_json(checkpoint / "tokenizer.json", content)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "relu", "hidden_act = 'relu'; llama.cpp's BERT supports only 'gelu'"),
        ("position_embedding_type", "relative_key", "supports only 'absolute'"),
        ("pad_token_id", "1", "pad_token_id = '1' is not a token id"),
        ("pad_token_id", TOKENS + 1, "leaves no position"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, key: str, value: Any, message: str) -> None:
    checkpoint = make_tiny_xlm_roberta(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **{key: value})
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(checkpoint, tmp_path / "tiny.gguf")
