"""Forms of nomic-bert."""

from __future__ import annotations

from tests.convert.tiny_rotary_encoders import make_tiny_nomic_bert
from tests.convert.zoo.form import Form

FORMS = (
    Form(
        "nomic_bert",
        ("nomic-ai/nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1"),
        "NomicBertModel",
        make_tiny_nomic_bert,
        "mean",
    ),
)
