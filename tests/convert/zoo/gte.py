"""Forms of GTE."""

from __future__ import annotations

from functools import partial

from tests.convert.tiny_gte import make_tiny_arctic, make_tiny_gte
from tests.convert.zoo.form import Form

FORMS = (
    Form("gte_english", ("Alibaba-NLP/gte-large-en-v1.5",), "NewModel", make_tiny_gte, "cls", reference="gte"),
    Form(
        "gte_without_types",
        ("Alibaba-NLP/gte-base-en-v1.5",),
        "NewModel",
        partial(make_tiny_gte, types=0),
        "cls",
        reference="gte",
    ),
    Form(
        "gte_multilingual",
        ("Alibaba-NLP/gte-multilingual-base",),
        "NewModel, NewForTokenClassification",
        partial(make_tiny_gte, multilingual=True, types=1),
        "cls",
        reference="gte",
    ),
    Form(
        "gte_arctic",
        ("Snowflake/snowflake-arctic-embed-m-v2.0",),
        "GteModel",
        make_tiny_arctic,
        "cls",
        reference="gte",
    ),
)
