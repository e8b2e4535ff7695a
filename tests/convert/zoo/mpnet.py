"""Forms of MPNet."""

from __future__ import annotations

from functools import partial

from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.zoo.form import Form

FORMS = (
    Form(
        "mpnet_mean",
        ("sentence-transformers/all-mpnet-base-v2", "sentence-transformers/multi-qa-mpnet-base-cos-v1"),
        "MPNetForMaskedLM",
        make_tiny_mpnet,
        "mean",
        reference="transformers:MPNetModel",
    ),
    Form(
        "mpnet_cls",
        ("sentence-transformers/multi-qa-mpnet-base-dot-v1",),
        "MPNetModel",
        partial(make_tiny_mpnet, pooling="cls", masked_lm=False),
        "cls",
    ),
)
