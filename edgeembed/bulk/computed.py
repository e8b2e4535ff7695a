"""What a job computes of its texts: one matrix of dense rows, and of every other output a matrix for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edgeembed.engine.interface import DENSE, Output
from edgeembed.inference.postprocess import Matrix

FIELDS: dict[Output, str] = {"dense": "vector", "multi": "multi_vector", "sparse": "sparse", "tokens": "token_vectors"}
"""Names of the outputs in files: columns, or fields of a line."""


class Computed(NamedTuple):
    """Outputs of texts, in their order.

    dense: rows of length 1, float32, shape (texts, dimensions); dimensions is 0 where no dense rows are wanted. others: of
    each further output a matrix for each text, as `EmbedResult.parts` returns them. engine: that computed them, if it is not
    the one that began; as in `edgeembed.bulk.embedders.EmbedderInfo`.
    """

    dense: Matrix
    others: Mapping[Output, Sequence[Matrix]]
    engine: str = ""

    @property
    def widths(self) -> dict[Output, int]:
        """Numbers in a row of each output, as far as its rows are vectors and there are any."""
        found: dict[Output, int] = {"dense": self.dense.shape[1]}
        # A text may have no row: late interaction can leave punctuation out.
        found |= {
            output: max((rows.shape[1] for rows in matrices if len(rows)), default=0)
            for output, matrices in self.others.items()
            if output != "sparse"
        }
        return {output: width for output, width in found.items() if width}


def has_token_rows(outputs: Sequence[Output]) -> bool:
    """Return whether texts have a row for each token, which take hundreds of times as much memory as a dense one."""
    return "multi" in outputs or "tokens" in outputs


def nothing(outputs: Sequence[Output], dimensions: int) -> Computed:
    """Return the outputs of no text."""
    return Computed(np.zeros((0, dimensions), np.float32), {output: [] for output in outputs if output != "dense"})


def joined(parts: Sequence[Computed]) -> Computed:
    """Return the outputs of the texts of several parts, at least one, in their order."""
    if len(parts) == 1:
        return parts[0]
    others = {output: [rows for part in parts for rows in part.others[output]] for output in parts[0].others}
    engine = next((part.engine for part in parts if part.engine), "")
    return Computed(np.concatenate([part.dense for part in parts]), others, engine)


def fields_of(computed: Computed, index: int) -> dict[str, Any]:
    """Return what was computed of a text, besides its dense row, as fields of a JSON object.

    Sparse weights are as vector databases take them: token ids, and the weight of each.
    """
    found: dict[str, Any] = {}
    for output, matrices in computed.others.items():
        rows = np.ascontiguousarray(matrices[index])
        if output == "sparse":
            found["sparse"] = {"indices": rows[:, 0].astype(np.int32), "values": rows[:, 1].copy()}
        else:
            found[FIELDS[output]] = rows
    return found


def described(outputs: Sequence[Output], widths: Mapping[Output, int]) -> str:
    """Return what a job computes, for people: "vectors of 384 dimensions", "rows of dense vectors … and sparse weights"."""
    if tuple(outputs) == DENSE:
        return f"vectors of {widths['dense']} dimensions"
    names = {"dense": "dense vectors", "multi": "multi-vectors", "sparse": "sparse weights", "tokens": "token vectors"}
    words = [f"{names[each]} of {widths[each]} dimensions" if each in widths else names[each] for each in outputs]
    return "rows of " + " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
