"""The model families that can be converted. A new family is one module beside this one and one entry in FAMILIES."""

from __future__ import annotations

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import Family
from edgeembed_convert.families.bert import Bert
from edgeembed_convert.families.cross_encoder import BertCrossEncoder, XlmRobertaCrossEncoder
from edgeembed_convert.families.gemma import Gemma
from edgeembed_convert.families.modern_bert import ModernBert
from edgeembed_convert.families.nomic_bert import NomicBert
from edgeembed_convert.families.qwen3 import Qwen3
from edgeembed_convert.families.xlm_roberta import XlmRoberta

__all__ = ["FAMILIES", "find_family"]

FAMILIES: tuple[Family, ...] = (
    Bert(),
    XlmRoberta(),
    BertCrossEncoder(),
    XlmRobertaCrossEncoder(),
    ModernBert(),
    NomicBert(),
    Qwen3(),
    Gemma(),
)


def find_family(checkpoint: Checkpoint) -> Family:
    """Find the family by config.json's `architectures`, or by `model_type` where there is none.

    Raises ConversionError listing the known architectures.
    """
    names = checkpoint.config.get("architectures")
    model_type = checkpoint.config.get("model_type")
    for family in FAMILIES:
        if names:
            if isinstance(names, list) and len(names) == 1 and names[0] in family.architectures:
                return family
        elif model_type in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise ConversionError(
        f"{checkpoint.config_file}: architectures = {names!r}, model_type = {model_type!r} cannot be converted;"
        f" known architectures: {known}"
    )
