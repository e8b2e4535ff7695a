"""Outputs of a converted model besides its dense row: which heads the checkpoint has, and their keys in the file."""

from __future__ import annotations

from dataclasses import replace

from edgeembed.engine.interface import DENSE, Output
from edgeembed.engine.outputs import OUTPUTS_KEY, ordered
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.multi import read_multi
from edgeembed_convert.sparse import read_sparse


def with_outputs(checkpoint: Checkpoint, plan: ModelPlan) -> ModelPlan:
    """Return the plan with the heads that our engine computes from hidden states. Raises ConversionError."""
    heads: dict[Output, Metadata] = {}
    if (multi := read_multi(checkpoint, plan)) is not None:
        heads["multi"] = multi
    if (sparse := read_sparse(checkpoint, plan)) is not None:
        heads["sparse"] = dict(sparse.metadata())
    if not heads:
        return plan
    outputs = ordered([*(() if plan.pooling == "none" else DENSE), *heads])
    keys: Metadata = {OUTPUTS_KEY: ",".join(outputs)}
    for metadata in heads.values():
        keys |= metadata
    # PyLate puts none before texts unless it is told to.
    prompts = {} if checkpoint.late and not checkpoint.late.has_prompts else plan.prompts
    return replace(plan, metadata={**plan.metadata, **keys}, prompts=prompts)
