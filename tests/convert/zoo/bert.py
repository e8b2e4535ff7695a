"""Forms of BERT: MiniLM, bge, e5 and gte, the multilingual ones with XLM-RoBERTa's vocabulary, and cross-encoders."""

from __future__ import annotations

import json
from pathlib import Path

from tests.convert.tiny_bert import edit_json, tiny_weights, write_json, write_safetensors
from tests.convert.tiny_encoders import (
    make_tiny_cross_encoder,
    make_tiny_xlm_roberta,
    wordpiece_tokenizer_json,
    write_sentence_transformer,
)
from tests.convert.zoo.form import Form
from tests.convert.zoo.modules import write_dense, write_modules


def _embedder(folder: Path, pooling: str, *, cased: bool = False) -> Path:
    make_tiny_cross_encoder(folder)
    edit_json(folder / "config.json", architectures=["BertModel"], id2label=None, label2id=None, sentence_transformers=None)
    write_sentence_transformer(folder, 64, pooling)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_safetensors(folder / "model.safetensors", tiny_weights(config))
    if cased:
        content = wordpiece_tokenizer_json()
        content["normalizer"] |= {"lowercase": False, "strip_accents": False}
        write_json(folder / "tokenizer.json", content)
        edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    return folder


def make_mean(folder: Path) -> Path:
    """Write a checkpoint in the form of all-MiniLM-L6-v2."""
    return _embedder(folder, "mean")


def make_cls(folder: Path) -> Path:
    """Write a checkpoint in the form of bge-small-en-v1.5."""
    return _embedder(folder, "cls")


def make_cased(folder: Path) -> Path:
    """Write a checkpoint with a cased vocabulary."""
    return _embedder(folder, "mean", cased=True)


def make_labse(folder: Path) -> Path:
    """Write a checkpoint in the form of LaBSE: the first token's state, a Dense module with a bias and tanh."""
    _embedder(folder, "cls", cased=True)
    write_modules(folder, 64, ["Dense"], pooling="cls")
    write_dense(folder / "2_Dense", 64, 64, bias=True, activation="torch.nn.modules.activation.Tanh")
    return folder


def make_japanese(folder: Path) -> Path:
    """Write a checkpoint in the form of sentence-bert-base-ja-mean-tokens: words from a dictionary, then WordPiece."""
    make_mean(folder)
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="BertJapaneseTokenizer",
        word_tokenizer_type="mecab",
        subword_tokenizer_type="wordpiece",
        do_lower_case=False,
    )
    return folder


def make_unigram(folder: Path) -> Path:
    """Write a checkpoint in the form of multilingual-e5-small: BertModel, with XLM-RoBERTa's tokenizer."""
    make_tiny_xlm_roberta(folder, pooling="mean")
    edit_json(folder / "config.json", architectures=["BertModel"], model_type="bert", pad_token_id=0)
    return folder


FORMS = (
    Form(
        "bert_mean",
        (
            "sentence-transformers/all-MiniLM-L6-v2",
            "sentence-transformers/all-MiniLM-L12-v2",
            "intfloat/e5-base-v2",
            "intfloat/e5-large-v2",
        ),
        "BertModel",
        make_mean,
        "mean",
        pre="bert-bge",
    ),
    Form(
        "bert_cls",
        (
            "BAAI/bge-small-en-v1.5",
            "BAAI/bge-base-en-v1.5",
            "BAAI/bge-large-en-v1.5",
            "BAAI/bge-small-zh-v1.5",
            "BAAI/bge-base-zh-v1.5",
            "BAAI/bge-large-zh-v1.5",
            "mixedbread-ai/mxbai-embed-large-v1",
            "Snowflake/snowflake-arctic-embed-xs",
            "Snowflake/snowflake-arctic-embed-s",
            "Snowflake/snowflake-arctic-embed-m",
            "Snowflake/snowflake-arctic-embed-l",
            "Snowflake/snowflake-arctic-embed-m-v1.5",
        ),
        "BertModel",
        make_cls,
        "cls",
        pre="bert-bge",
    ),
    Form("bert_cased", ("NbAiLab/nb-sbert-base",), "BertModel", make_cased, "mean", pre="bert-bge"),
    Form(
        "bert_dense_tanh",
        ("sentence-transformers/LaBSE",),
        "BertModel",
        make_labse,
        "cls",
        reference="sentence_transformers",
        pre="bert-bge",
    ),
    Form(
        "bert_unigram",
        (
            "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
            "intfloat/multilingual-e5-small",
        ),
        "BertModel",
        make_unigram,
        "mean",
    ),
    Form(
        "cross_encoder",
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L12-v2"),
        "BertForSequenceClassification",
        make_tiny_cross_encoder,
        "rank",
        pre="bert-bge",
        differs={
            "cls.weight": "theirs lacks the pooler, without which scores are noise",
            "cls.bias": "theirs lacks the pooler",
            "cls.output.weight": "ours stays F32",
            "token_embd.weight": "ours has a copy of the vocabulary with the second token type",
        },
    ),
    Form(
        "bert_japanese",
        ("sonoisa/sentence-bert-base-ja-mean-tokens",),
        "BertModel",
        make_japanese,
        "mean",
        refused="BertJapaneseTokenizer",
    ),
)
