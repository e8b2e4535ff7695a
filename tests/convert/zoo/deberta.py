"""Forms of DeBERTa, which are refused."""

from __future__ import annotations

from pathlib import Path

from tests.convert.tiny_bert import edit_json, make_tiny_bert
from tests.convert.zoo.form import Form


def make_deberta(folder: Path) -> Path:
    """Write a checkpoint with the keys of a sentence transformer on mdeberta-v3-base; its weights are never read."""
    make_tiny_bert(folder)
    edit_json(
        folder / "config.json",
        architectures=["DebertaV2Model"],
        model_type="deberta-v2",
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=256,
        relative_attention=True,
        share_att_key=True,
    )
    return folder


FORMS = (
    Form(
        "deberta",
        ("embedders on microsoft/mdeberta-v3-base",),
        "DebertaV2Model",
        make_deberta,
        "mean",
        refused="compares each token with vectors that stand for distances",
    ),
)
