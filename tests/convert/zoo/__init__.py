"""The zoo: a tiny checkpoint for each form in which models are published.

A module for each family has builders and `FORMS`; add the module to `_MODULES`. The true keys of the public model's files
matter, because a key that is misread changes vectors silently; the sizes do not. Then compute the reference rows, with the
Python of an environment that has torch, transformers and sentence-transformers:

    python -m tests.reference.make_zoo_rows NAME ... [--llama-cpp SOURCE]

and bring the table in docs/models.md up to date: `python -m tests.docs.test_zoo_table`.
"""

from __future__ import annotations

from tests.convert.zoo import (
    adapters,
    bert,
    classifiers,
    cross_encoders,
    deberta,
    distil_bert,
    eurobert,
    files,
    gemma,
    granite,
    gte,
    harrier,
    jina_bert,
    jina_v3,
    late_interaction,
    lfm2,
    llama,
    modern_bert,
    mpnet,
    neo_bert,
    nomic_bert,
    older_tokenizers,
    prompted_rerankers,
    qwen3,
    qwen3_vl,
    roberta,
    sparse,
    t5,
    xlm_roberta,
)
from tests.convert.zoo.form import Form

__all__ = ["FORMS", "Form"]

_MODULES = (
    bert,
    classifiers,
    cross_encoders,
    distil_bert,
    eurobert,
    roberta,
    sparse,
    xlm_roberta,
    modern_bert,
    granite,
    mpnet,
    gte,
    deberta,
    nomic_bert,
    neo_bert,
    t5,
    jina_bert,
    jina_v3,
    late_interaction,
    adapters,
    qwen3,
    qwen3_vl,
    lfm2,
    prompted_rerankers,
    gemma,
    harrier,
    llama,
    files,
    older_tokenizers,
)
FORMS: tuple[Form, ...] = tuple(form for module in _MODULES for form in module.FORMS)
