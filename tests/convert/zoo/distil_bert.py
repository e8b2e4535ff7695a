"""Forms of DistilBERT."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.convert.tiny_bert_variants import make_tiny_distil_bert
from tests.convert.zoo.form import Form
from tests.convert.zoo.modules import write_dense, write_modules


def make_distiluse(folder: Path) -> Path:
    """Write a checkpoint in the form of distiluse-base-multilingual-cased-v2: a Dense module makes vectors shorter."""
    make_tiny_distil_bert(folder)
    write_modules(folder, 64, ["Dense"], normalize=False)
    write_dense(folder / "2_Dense", 64, 48, bias=True, activation="torch.nn.modules.activation.Tanh")
    return folder


def make_clip_multilingual(folder: Path) -> Path:
    """Write a checkpoint in the form of clip-ViT-B-32-multilingual-v1: a Dense module that is a matrix alone."""
    make_tiny_distil_bert(folder)
    write_modules(folder, 64, ["Dense"], normalize=False)
    write_dense(folder / "2_Dense", 64, 48, bias=False, activation="torch.nn.modules.linear.Identity")
    return folder


FORMS = (
    Form(
        "distil_bert_mean",
        ("sentence-transformers/multi-qa-distilbert-cos-v1",),
        "DistilBertModel",
        make_tiny_distil_bert,
        "mean",
        pre="bert-bge",
    ),
    Form(
        "distil_bert_cls",
        ("sentence-transformers/msmarco-distilbert-base-tas-b",),
        "DistilBertModel",
        partial(make_tiny_distil_bert, pooling="cls"),
        "cls",
        pre="bert-bge",
    ),
    Form(
        "distil_bert_dense_tanh",
        (
            "sentence-transformers/distiluse-base-multilingual-cased-v2",
            "sentence-transformers/distiluse-base-multilingual-cased-v1",
        ),
        "DistilBertModel",
        make_distiluse,
        "mean",
        reference="sentence_transformers",
        pre="bert-bge",
    ),
    Form(
        "distil_bert_dense",
        ("sentence-transformers/clip-ViT-B-32-multilingual-v1",),
        "DistilBertModel",
        make_clip_multilingual,
        "mean",
        reference="sentence_transformers",
        pre="bert-bge",
    ),
)
