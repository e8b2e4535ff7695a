"""Forms of RoBERTa and CamemBERT."""

from __future__ import annotations

from functools import partial

from tests.convert.tiny_bert_variants import make_tiny_camembert, make_tiny_roberta
from tests.convert.zoo.form import Form

FORMS = (
    Form(
        "roberta_mean",
        ("sentence-transformers/all-distilroberta-v1",),
        "RobertaModel",
        make_tiny_roberta,
        "mean",
        pre="roberta-bpe",
        context=1280,
    ),
    Form(
        "roberta_cls",
        ("ibm-granite/granite-embedding-125m-english", "ibm-granite/granite-embedding-30m-english"),
        "RobertaModel",
        partial(make_tiny_roberta, pooling="cls"),
        "cls",
        pre="roberta-bpe",
        context=1280,
    ),
    Form("camembert", ("dangvantuan/sentence-camembert-base",), "CamembertModel", make_tiny_camembert, "mean"),
)
