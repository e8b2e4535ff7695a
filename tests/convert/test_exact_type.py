"""The type of the file of unquantised weights, if some of them are derived from stored ones."""

from __future__ import annotations

from pathlib import Path

from edgeembed_convert.conversion import _exact_type
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.views import Plus
from edgeembed_convert.weights import StoredTensor


def plan(*tensors: PlannedTensor) -> ModelPlan:
    return ModelPlan("bert", 4, "mean", {}, tensors)


def stored(dtype: str) -> StoredTensor:
    return StoredTensor("w", Path("model.safetensors"), dtype, (4, 4), 0)


def test_only_a_lossless_type_is_chosen() -> None:
    half, brain, full = (PlannedTensor("w", stored(dtype)) for dtype in ("F16", "BF16", "F32"))
    assert _exact_type(plan(brain, brain)) == "BF16"
    assert _exact_type(plan(half)) == "F16"
    assert _exact_type(plan(half, brain)) == "F32"
    assert _exact_type(plan(brain, full)) == "F32"
    assert _exact_type(plan(brain, PlannedTensor("small", stored("F32"), keep_f32=True))) == "BF16"
    assert _exact_type(plan(brain, PlannedTensor("sum", Plus(stored("BF16"), 1.0)))) == "F32"
