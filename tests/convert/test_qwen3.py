"""Qwen3-Embedding and Qwen3-Reranker: tiny checkpoints against the rows and scores of transformers.

The reference was made once, by tests/reference/make_decoder_rows.py, from the same seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.errors import ConversionError
from edgeembed_convert.families.qwen3 import INSTRUCTION, RERANK_TEMPLATE
from tests.convert.decoder_reference import QWEN3_ROWS, convert, unpack
from tests.convert.decoder_texts import PAIRS
from tests.convert.gguf_fields import fields
from tests.convert.llama_scores import open_scores
from tests.convert.llama_vectors import cosine, open_llama
from tests.convert.tiny_bert import edit_json
from tests.convert.tiny_qwen3_checkpoint import ADDED, make_qwen3_checkpoint, tiny_vocabulary

pytestmark = pytest.mark.usefixtures("quiet")

FIRST = len(tiny_vocabulary()[0])
"""Id of <|endoftext|>."""


@pytest.mark.model
@pytest.mark.parametrize(("quantization", "least"), [("F32", 0.9999), ("F16", 0.9999), ("BF16", 0.99)])
def test_rows_equal_those_of_transformers(tmp_path: Path, quantization: str, least: float) -> None:
    file = convert(make_qwen3_checkpoint(tmp_path / "tiny"), quantization)
    with np.load(QWEN3_ROWS) as reference, open_llama(file) as llama:
        texts = [str(text) for text in reference["texts"]]
        for text, ids, row in zip(texts, unpack(reference, "text"), reference["text_rows"], strict=True):
            assert llama.tokenize(text) == ids, text
            assert ids[-1] == FIRST
            assert cosine(llama.embed_ids(ids), row) >= least, text
        # Sequences with control tokens inside, which no user's text can produce.
        for text, ids, row in zip(texts, unpack(reference, "parsed"), reference["parsed_rows"], strict=True):
            assert cosine(llama.embed_ids(ids), row) >= least, text


@pytest.mark.parametrize(
    ("kind", "tied", "expected", "options"),
    [
        ("rerank", True, "rerank_scores", {"task": "rerank"}),
        ("rerank", False, "rerank_untied_scores", {"task": "rerank"}),
        ("logit-score", True, "rerank_scores", {}),
        ("classify", True, "classify_scores", {}),
    ],
)
@pytest.mark.parametrize(("quantization", "most"), [("F32", 1e-3), ("F16", 5e-3)])
def test_scores_equal_those_of_transformers(
    tmp_path: Path, kind: str, tied: bool, expected: str, options: dict[str, Any], quantization: str, most: float
) -> None:
    file = convert(make_qwen3_checkpoint(tmp_path / "tiny", kind=kind, tied=tied), quantization, **options)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    assert types["cls.output.weight"] == "F32"
    assert "output.weight" not in types
    template = fields(file)["edgeembed.prompt.rerank"]
    with np.load(QWEN3_ROWS) as reference, open_scores(file) as llama:
        for (query, document), ids, score in zip(PAIRS, unpack(reference, "pair"), reference[expected], strict=True):
            assert llama.tokenize(template, instruction=INSTRUCTION, query=query, document=document) == ids
            yes, no = llama.rank(ids)
            assert yes == pytest.approx(float(score), abs=most), query
            assert yes + no == pytest.approx(1)


def test_metadata_of_an_embedder(tmp_path: Path) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny")
    card = "---\nlicense: apache-2.0\n---\nsupports user-defined output dimensions ranging from 32 to 64\n"
    (checkpoint / "README.md").write_text(card, encoding="utf-8")
    found = fields(convert(checkpoint))
    vocabulary, merges = tiny_vocabulary()
    assert found.pop("tokenizer.ggml.tokens") == [
        *vocabulary, *(piece for piece, _ in ADDED), *(f"[PAD{FIRST + 26 + number}]" for number in range(3))
    ]  # fmt: skip
    kinds = [3 if special or piece.startswith("<|") else 4 for piece, special in ADDED]
    assert found.pop("tokenizer.ggml.token_type") == [1] * FIRST + kinds + [5] * 3
    assert found.pop("tokenizer.ggml.merges") == [f"{left} {right}" for left, right in merges]
    assert found.pop("qwen3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    wanted = {
        "general.architecture": "qwen3",
        "general.license": "apache-2.0",
        "qwen3.block_count": 2,
        "qwen3.context_length": 512,
        "qwen3.embedding_length": 64,
        "qwen3.feed_forward_length": 128,
        "qwen3.vocab_size": FIRST + 29,
        "qwen3.attention.head_count": 6,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 32,
        "qwen3.attention.value_length": 32,
        "qwen3.attention.causal": True,
        "qwen3.rope.freq_base": 1e6,
        "qwen3.pooling_type": 3,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.bos_token_id": FIRST,
        # Not <|im_end|>, which tokenizer_config.json names: the post-processor adds <|endoftext|>.
        "tokenizer.ggml.eos_token_id": FIRST,
        "tokenizer.ggml.padding_token_id": FIRST,
        "tokenizer.ggml.eot_token_id": FIRST + 2,
        "edgeembed.tokenizer.normalizer": "nfc",
        "edgeembed.prompt.query": "Instruct: {instruction}\nQuery:{text}",
        "edgeembed.prompt.document": "{text}",
        "edgeembed.prompt.instruction": INSTRUCTION,
        "edgeembed.matryoshka.min": 32,
        "edgeembed.matryoshka.max": 64,
    }
    assert {key: found.get(key) for key in wanted} == wanted


def test_metadata_of_a_reranker(tmp_path: Path) -> None:
    found = fields(convert(make_qwen3_checkpoint(tmp_path / "tiny", kind="rerank"), task="rerank"))
    wanted = {
        "qwen3.pooling_type": 4,
        "qwen3.classifier.output_labels": ["yes", "no"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.eos_token_id": FIRST + 2,
        "tokenizer.ggml.padding_token_id": FIRST,
        "tokenizer.chat_template.rerank": RERANK_TEMPLATE.replace("{instruction}", INSTRUCTION),
        "edgeembed.prompt.rerank": RERANK_TEMPLATE,
        "edgeembed.prompt.instruction": INSTRUCTION,
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert not {"edgeembed.prompt.query", "tokenizer.ggml.eot_token_id", "edgeembed.matryoshka.max"} & set(found)


def test_the_heads_of_embedders_are_dropped(tmp_path: Path) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny", kind="rerank", tied=False)
    embedder = make_qwen3_checkpoint(tmp_path / "embed")
    for name in ("modules.json", "tokenizer.json", "1_Pooling/config.json"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes((embedder / name).read_bytes())
    assert {tensor.name for tensor in GGUFReader(convert(checkpoint)).tensors} >= {"token_embd.weight", "output_norm.weight"}
    assert "output.weight" not in {tensor.name for tensor in GGUFReader(convert(checkpoint)).tensors}


@pytest.mark.parametrize("source", ["card", "caller"])
def test_rerankers_are_recognised_by_the_card_or_the_task(tmp_path: Path, source: str) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny", kind="rerank")
    with pytest.raises(ConversionError, match=r"the purpose of this Qwen3 model is unknown.*--task rerank"):
        convert(checkpoint)
    with pytest.raises(ConversionError, match="the pooling is unknown"):
        convert(checkpoint, task="embed")
    if source == "card":
        card = (checkpoint / "README.md").read_text(encoding="utf-8")
        (checkpoint / "README.md").write_text(f"---\npipeline_tag: text-ranking\n---\n{card}", encoding="utf-8")
        assert fields(convert(checkpoint))["qwen3.pooling_type"] == 4
        with pytest.raises(ConversionError, match="cannot be converted with the task embed"):
            convert(checkpoint, task="embed")
    else:
        assert fields(convert(checkpoint, task="rerank"))["qwen3.pooling_type"] == 4


@pytest.mark.parametrize("kind", ["logit-score", "classify"])
def test_a_reranker_with_an_unknown_prompt(tmp_path: Path, kind: str) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny", kind=kind)
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    (checkpoint / "README.md").unlink()
    with pytest.raises(ConversionError, match=r"neither README\.md nor the chat template contains Qwen3-Reranker's prompt"):
        convert(checkpoint)
    assert convert(checkpoint, task="rerank").is_file()
    (checkpoint / "chat_template.jinja").write_text(card, encoding="utf-8")
    assert convert(checkpoint).is_file()


@pytest.mark.parametrize("no", [None, 3])
def test_a_reranker_with_other_labels(tmp_path: Path, no: int | None) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny", kind="logit-score")
    edit_json(checkpoint / "1_LogitScore" / "config.json", false_token_id=no)
    with pytest.raises(ConversionError, match="instead of yes and no"):
        convert(checkpoint)


def test_an_embedder_cannot_be_converted_as_a_reranker(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="with the task rerank: its files are those of a model for the task embed"):
        convert(make_qwen3_checkpoint(tmp_path / "tiny"), task="rerank")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling .* is not supported"),
        ("config.json", {"attention_bias": True}, "attention_bias = True; llama.cpp's Qwen3 supports only False"),
        ("config.json", {"num_key_value_heads": 4}, "num_attention_heads 6 is not a multiple of num_key_value_heads 4"),
        ("config.json", {"head_dim": 64}, r"q_proj.weight has the shape \[192, 64\]; config.json requires \[384, 64\]"),
        ("config.json", {"num_hidden_layers": 3}, "tensor layers.2.input_layernorm.weight is missing"),
        ("config.json", {"num_hidden_layers": 1}, "11 tensors do not belong"),
        ("config.json", {"vocab_size": 200}, r"not below vocab_size 200|shape"),
        ("config.json", {"rms_norm_eps": None}, "rms_norm_eps = None; expected a positive number"),
        ("config.json", {"rope_theta": None}, "rope_theta = None; expected a positive number"),
        ("tokenizer.json", {"normalizer": {"type": "NFKC"}}, "the normaliser = 'NFKC'"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer = 'Whitespace'"),
        ("tokenizer.json", {"post_processor": {"type": "BertProcessing"}}, "post-processor"),
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "the tokenizer's model is 'Unigram'; expected BPE"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}}}, "model.vocab must be an object"),
        ("tokenizer_config.json", {"eos_token": "<eos>"}, "the eos token '<eos>' is not in the vocabulary"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": "<think>"}}}, "'<think>' has the id 1"),
    ],
)
def test_malformed(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny")
    edit_json(checkpoint / file, **changes)
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_merge_with_an_unknown_piece(tmp_path: Path) -> None:
    checkpoint = make_qwen3_checkpoint(tmp_path / "tiny")
    vocab = {piece: number for number, piece in enumerate(tiny_vocabulary()[0])}
    for merges, message in ((["a b"], "produces a piece that is not"), (["a"], "is not a pair"), ("a b", "is not a list")):
        edit_json(checkpoint / "tokenizer.json", model={"type": "BPE", "vocab": vocab, "merges": merges})
        with pytest.raises(ConversionError, match=message):
            convert(checkpoint)
