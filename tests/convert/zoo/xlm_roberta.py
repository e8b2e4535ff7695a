"""Forms of XLM-RoBERTa."""

from __future__ import annotations

from functools import partial

from tests.convert.tiny_encoders import make_tiny_xlm_roberta, make_tiny_xlm_roberta_reranker
from tests.convert.zoo.form import Form

FORMS = (
    Form(
        "xlm_roberta_cls",
        ("Snowflake/snowflake-arctic-embed-l-v2.0",),
        "XLMRobertaModel",
        partial(make_tiny_xlm_roberta, pooling="cls"),
        "cls",
    ),
    Form(
        "xlm_roberta_mean",
        (
            "intfloat/multilingual-e5-large",
            "intfloat/multilingual-e5-large-instruct",
            "intfloat/multilingual-e5-base",
            "sentence-transformers/paraphrase-multilingual-mpnet-base-v2",
        ),
        "XLMRobertaModel",
        partial(make_tiny_xlm_roberta, pooling="mean"),
        "mean",
    ),
    Form(
        "xlm_roberta_reranker",
        ("BAAI/bge-reranker-v2-m3", "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1"),
        "XLMRobertaForSequenceClassification",
        make_tiny_xlm_roberta_reranker,
        "rank",
        differs={"cls.weight": "ours stays F32", "cls.output.weight": "ours stays F32"},
    ),
)
