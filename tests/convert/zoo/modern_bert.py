"""Forms of ModernBERT."""

from __future__ import annotations

from functools import partial

from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert
from tests.convert.zoo.form import Form

FORMS = (
    Form(
        "modern_bert_cls",
        (
            "Alibaba-NLP/gte-modernbert-base",
            "ibm-granite/granite-embedding-english-r2",
            "ibm-granite/granite-embedding-small-english-r2",
        ),
        "ModernBertModel",
        partial(make_tiny_modern_bert, pooling="cls"),
        "cls",
        context=1280,
        pre="modern-bert",
    ),
    Form(
        "modern_bert_mean",
        ("nomic-ai/modernbert-embed-base",),
        "ModernBertModel",
        partial(make_tiny_modern_bert, pooling="mean"),
        "mean",
        context=1280,
        pre="modern-bert",
    ),
)
