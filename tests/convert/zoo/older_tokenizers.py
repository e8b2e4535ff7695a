"""Forms with the files of tokenizers that there were before tokenizer.json."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.convert.tiny_bert_variants import make_tiny_camembert, make_tiny_roberta
from tests.convert.tiny_encoders import make_tiny_xlm_roberta, make_tiny_xlm_roberta_reranker
from tests.convert.tiny_qwen3_checkpoint import Qwen3Shape, make_qwen3_checkpoint
from tests.convert.zoo import bert
from tests.convert.zoo.form import Form
from tests.convert.zoo.t5 import make_sentence_t5

_FIRST = ("<unk>", "<s>", "</s>")
"""SentencePiece's own first pieces."""


def write_merges(folder: Path, *, keep: Sequence[str] = ("tokenizer_config.json",)) -> Path:
    """Replace tokenizer.json by vocab.json, merges.txt and added_tokens.json; keep: files that stay."""
    content = _take(folder, keep)
    model = content["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
    added = {entry["content"]: entry["id"] for entry in content["added_tokens"] if entry["content"] not in model["vocab"]}
    if added and not keep:
        (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    return folder


def write_sentencepiece(folder: Path, *, before: int = 4, first: Sequence[str] = _FIRST, keep: Sequence[str] = ()) -> Path:
    """Replace tokenizer.json by sentencepiece.bpe.model.

    before: special pieces of the tokenizer's class before those of the model. first: the model's first pieces.
    """
    content = _take(folder, keep)
    vocabulary = content["model"]["vocab"][before:-1]  # without <mask>
    pieces = [(piece, 0.0, 2 if piece == "<unk>" else 3) for piece in first] + [
        (piece, score, 1) for piece, score in vocabulary
    ]
    charsmap = base64.b64decode(content["normalizer"]["precompiled_charsmap"])
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(pieces, charsmap))
    return folder


def _take(folder: Path, keep: Sequence[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(keep):
        (folder / name).unlink()
    return content


def sentencepiece_model(
    pieces: Sequence[tuple[str, float, int]], charsmap: bytes, *, kind: int = 1, normalizer: bytes = b""
) -> bytes:
    """Return a model file: pieces with scores and types, and the table of the normaliser. normalizer: more of its fields."""
    entries = (
        _bytes(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([number])
        for piece, score, number in pieces
    )
    spec = _bytes(1, b"nmt_nfkc") + _bytes(2, charsmap) + normalizer
    return b"".join([*(_bytes(1, entry) for entry in entries), _bytes(2, bytes([0x18, kind])), _bytes(3, spec)])


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2, *_varint(len(content))]) + content


def _varint(number: int) -> Iterator[int]:
    while number > 127:
        yield number & 127 | 128
        number >>= 7
    yield number


def make_vocabulary_text(folder: Path, *, keep: bool = False) -> Path:
    """Write a checkpoint in the form of all-MiniLM-L6-v2 with vocab.txt alone; keep: with tokenizer_config.json."""
    bert.make_mean(folder)
    content = _take(folder, ["tokenizer_config.json"] if keep else [])
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in content["model"]["vocab"]), encoding="utf-8")
    return folder


def make_qwen3(folder: Path) -> Path:
    """Write a checkpoint of Qwen3 with vocab.json, merges.txt and tokenizer_config.json: no token after the text."""
    return write_merges(make_qwen3_checkpoint(folder, shape=Qwen3Shape(max_position_embeddings=1280)))


def make_roberta(folder: Path) -> Path:
    """Write a checkpoint in the form of all-distilroberta-v1 with vocab.json and merges.txt alone."""
    return write_merges(make_tiny_roberta(folder), keep=())


def make_xlm_roberta(folder: Path) -> Path:
    """Write a checkpoint in the form of multilingual-e5-base with sentencepiece.bpe.model alone."""
    return write_sentencepiece(make_tiny_xlm_roberta(folder, pooling="mean"))


def make_reranker(folder: Path) -> Path:
    """Write a checkpoint in the form of bge-reranker-v2-m3 with sentencepiece.bpe.model alone."""
    return write_sentencepiece(make_tiny_xlm_roberta_reranker(folder))


def make_camembert(folder: Path) -> Path:
    """Write a checkpoint in the form of sentence-camembert-base with sentencepiece.bpe.model alone."""
    return write_sentencepiece(make_tiny_camembert(folder), before=7)


def make_t5(folder: Path) -> Path:
    """Write a checkpoint of a T5 encoder with spiece.model alone."""
    _take(make_sentence_t5(folder, dense=False), ["tokenizer_config.json"])
    return folder


FORMS = (
    Form(
        "bert_vocab_txt_alone",
        ("BERT's `vocab.txt` alone",),
        "BertModel",
        make_vocabulary_text,
        "mean",
        reference="older_tokenizers",
    ),
    Form(
        "bert_vocab_txt",
        ("`vocab.txt` and `tokenizer_config.json`",),
        "BertModel",
        partial(make_vocabulary_text, keep=True),
        "mean",
        reference="older_tokenizers",
    ),
    Form(
        "roberta_merges_alone",
        ("RoBERTa's `vocab.json` and `merges.txt` alone",),
        "RobertaModel",
        make_roberta,
        "mean",
        reference="older_tokenizers",
        context=1280,
    ),
    Form(
        "qwen3_merges",
        ("`vocab.json`, `merges.txt` and `tokenizer_config.json`",),
        "Qwen3ForCausalLM",
        make_qwen3,
        "last",
        reference="older_tokenizers",
        context=1280,
    ),
    Form(
        "xlm_roberta_sentencepiece_alone",
        ("XLM-RoBERTa's `sentencepiece.bpe.model` alone",),
        "XLMRobertaModel",
        make_xlm_roberta,
        "mean",
        reference="older_tokenizers",
    ),
    Form(
        "xlm_roberta_reranker_sentencepiece_alone",
        ("the same, as a cross-encoder",),
        "XLMRobertaForSequenceClassification",
        make_reranker,
        "rank",
        reference="older_tokenizers",
    ),
    Form(
        "t5_sentencepiece",
        ("T5's `spiece.model` and `tokenizer_config.json`",),
        "T5EncoderModel",
        make_t5,
        "mean",
        reference="older_tokenizers",
        context=512,
    ),
    Form(
        "camembert_sentencepiece_alone",
        ("CamemBERT's `sentencepiece.bpe.model` alone",),
        "CamembertModel",
        make_camembert,
        "mean",
        reference="older_tokenizers",
    ),
)
