"""Gemma 3, bidirectional (EmbeddingGemma) and causal (harrier): a tiny checkpoint against the rows of sentence-transformers.

The reference was made once, by tests/reference/make_decoder_rows.py, from the same seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from tests.convert.decoder_reference import convert, unpack
from tests.convert.gguf_fields import fields
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import edit_json
from tests.convert.tiny_gemma_checkpoint import (
    CHARACTERS,
    DEFINED,
    DENSE,
    HIDDEN,
    SPACE,
    SPECIAL,
    UNUSED,
    WORDS,
    make_gemma_checkpoint,
    tiny_merges,
    tiny_vocabulary,
)
from tests.convert.zoo.harrier import make_harrier_270m

pytestmark = pytest.mark.usefixtures("quiet")

ROWS = Path(__file__).parents[1] / "reference" / "gemma_rows.npz"


@pytest.mark.model
@pytest.mark.parametrize(("quantization", "least"), [("F32", 0.9999), ("F16", 0.9999)])
def test_rows_equal_those_of_sentence_transformers(tmp_path: Path, quantization: str, least: float) -> None:
    file = convert(make_gemma_checkpoint(tmp_path / "tiny"), quantization)
    with np.load(ROWS) as reference, open_llama(file) as llama:
        texts = [str(text) for text in reference["texts"]]
        for text, ids, row in zip(texts, unpack(reference, "text"), reference["text_rows"], strict=True):
            assert llama.tokenize(text) == ids, text
            assert cosine(llama.embed_ids(ids), row) >= least, text
            assert np.linalg.norm(llama.embed_ids(ids)) == pytest.approx(np.linalg.norm(row), rel=0.01)
        for text, ids, row in zip(texts, unpack(reference, "parsed"), reference["parsed_rows"], strict=True):
            assert cosine(llama.embed_ids(ids), row) >= least, text


def test_metadata(tmp_path: Path) -> None:
    file = convert(make_gemma_checkpoint(tmp_path / "tiny"))
    found = fields(file)
    defined = [piece.replace(SPACE, " ") for piece in DEFINED]
    pieces = found.pop("tokenizer.ggml.tokens")
    assert pieces == [*SPECIAL, *UNUSED, *defined, *tiny_vocabulary()[len(SPECIAL + UNUSED + DEFINED) :]]
    normal = len(WORDS) + len(CHARACTERS) + 1
    assert found.pop("tokenizer.ggml.token_type") == [*[3] * 7, *[4] * len(DEFINED), *[6] * 256, *[1] * normal]
    scores = dict(zip(pieces, found.pop("tokenizer.ggml.scores"), strict=True))
    made = {"".join(merge) for merge in tiny_merges()}
    merged = [scores[word] for word in WORDS if word in made]
    assert merged == sorted(merged, reverse=True)
    assert len(set(merged)) == len(merged) > 25
    assert scores["a"] < merged[-1]
    wanted = {
        "general.architecture": "gemma-embedding",
        "general.license": "gemma",
        "gemma-embedding.block_count": 5,
        "gemma-embedding.attention.sliding_window": 32,
        "gemma-embedding.attention.sliding_window_pattern": 3,
        "gemma-embedding.attention.causal": False,
        "gemma-embedding.rope.freq_base": 1e6,
        "gemma-embedding.rope.freq_base_swa": 1e4,
        "gemma-embedding.pooling_type": 1,
        "gemma-embedding.dense_2_feat_in": HIDDEN,
        "gemma-embedding.dense_2_feat_out": DENSE,
        "gemma-embedding.dense_3_feat_in": DENSE,
        "gemma-embedding.dense_3_feat_out": HIDDEN,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
        "edgeembed.prompt.query": "task: {instruction} | query: {text}",
        "edgeembed.prompt.instruction": "search result",
        "edgeembed.prompt.document": "title: none | text: {text}",
        "edgeembed.matryoshka.min": 16,
        "edgeembed.matryoshka.max": HIDDEN,
    }
    assert {key: found.get(key) for key in wanted} == wanted
    names = {tensor.name for tensor in GGUFReader(file).tensors}
    assert {"dense_2.weight", "dense_3.weight", "blk.4.post_ffw_norm.weight", "blk.0.post_attention_norm.weight"} <= names


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all'; expected true or"),
        ("config.json", {"query_pre_attn_scalar": 256}, "llama.cpp supports only head_dim, 32"),
        (
            "config.json",
            {"attn_logit_softcapping": 50.0},
            "= 50.0; llama.cpp's Gemma 3 supports only None",
        ),
        ("config.json", {"layer_types": ["full_attention"] * 4 + ["sliding_attention"]}, "every n-th of 5 layers"),
        ("config.json", {"sliding_window": None}, "sliding_window = None; expected a positive integer"),
        ("config.json", {"vocab_size": 300}, "not below vocab_size 300"),
        ("2_Dense/config.json", {"bias": True}, "has the weights \\['linear.weight'\\]; expected"),
        (
            "3_Dense/config.json",
            {"out_features": 47},
            r"linear.weight has the shape \[48, 192\]; according to config.json it must be \[47, 192\]",
        ),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "the normaliser = 'Lowercase'"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer = 'Whitespace'"),
    ],
)
def test_malformed(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_gemma_checkpoint(tmp_path / "tiny")
    edit_json(checkpoint / file, **changes)
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_other_modules(tmp_path: Path) -> None:
    checkpoint = make_gemma_checkpoint(tmp_path / "tiny")
    entries = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))[:3]
    entries.append({"path": "3_Dense", "type": "sentence_transformers.models.LayerNorm"})
    (checkpoint / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(ConversionError, match="modules of the kind LayerNorm"):
        convert(checkpoint)


def test_a_causal_model_is_another_architecture(tmp_path: Path) -> None:
    file = convert(make_harrier_270m(tmp_path / "tiny"))
    found = fields(file)
    wanted = {
        "general.architecture": "gemma3",
        "gemma3.attention.causal": True,
        "gemma3.attention.sliding_window": 32,
        "gemma3.attention.sliding_window_pattern": 3,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.freq_base_swa": 1e4,
        "gemma3.pooling_type": 3,
        "edgeembed.prompt.query": "Instruct: {instruction}\nQuery: {text}",
        "edgeembed.prompt.instruction": "Given a web search query, retrieve relevant passages that answer the query",
        "edgeembed.prompt.similarity": "Instruct: Retrieve semantically similar text\nQuery: {text}",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert "edgeembed.prompt.document" not in found
    assert "'bitext_query'" in found["edgeembed.converter.notes"]


def test_attention_of_the_largest_model_is_scaled_by_its_width(tmp_path: Path) -> None:
    checkpoint = make_harrier_270m(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", num_hidden_layers=62, layer_types=None)
    with pytest.raises(ConversionError, match=r"supports only hidden_size / num_attention_heads, 16"):
        convert(checkpoint)


@pytest.mark.model
def test_without_dense_modules(tmp_path: Path) -> None:
    checkpoint = make_gemma_checkpoint(tmp_path / "tiny")
    entries = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))[:2]
    (checkpoint / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    file = convert(checkpoint)
    assert "gemma-embedding.dense_2_feat_in" not in fields(file)
    with open_llama(file) as llama:
        assert llama.embed("hello").shape == (HIDDEN,)


def change_tokenizer(checkpoint: Path, **changes: Any) -> None:
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    edit_json(checkpoint / "tokenizer.json", model=content["model"] | changes)


def test_merges_without_equivalent_scores(tmp_path: Path) -> None:
    checkpoint = make_gemma_checkpoint(tmp_path / "tiny")
    merges = tiny_merges()
    change_tokenizer(checkpoint, merges=[merge for merge in merges if merge != ["he", "ll"]])
    with pytest.raises(ConversionError, match=r"'hell' has no merge of 'he' and 'll', but llama.cpp would join them"):
        convert(checkpoint)
    river = [merge for merge in merges if "".join(merge) == f"{SPACE}river"]
    assert len(river) >= 1
    change_tokenizer(checkpoint, merges=[*merges, *river])
    with pytest.raises(ConversionError, match="are not adjacent"):
        convert(checkpoint)


def test_a_vocabulary_without_bytes(tmp_path: Path) -> None:
    checkpoint = make_gemma_checkpoint(tmp_path / "tiny")
    change_tokenizer(checkpoint, byte_fallback=False)
    with pytest.raises(ConversionError, match=r"model\.byte_fallback = False"):
        convert(checkpoint)
    vocab = {piece.replace("<0x0A>", "<byte>"): number for number, piece in enumerate(tiny_vocabulary())}
    change_tokenizer(checkpoint, byte_fallback=True, vocab=vocab)
    with pytest.raises(ConversionError, match="no piece for the byte 0x0A"):
        convert(checkpoint)
