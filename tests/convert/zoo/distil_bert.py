"""Forms of DistilBERT."""

from __future__ import annotations

from functools import partial

from tests.convert.tiny_bert_variants import make_tiny_distil_bert
from tests.convert.zoo.form import Form

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
)
