"""The reference rows and scores of tests/reference/make_encoder_rows.py, and their comparison with a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.convert.tiny_encoders import checkpoint_sha256

_FOLDER = Path(__file__).parents[1] / "reference"


@dataclass(frozen=True)
class Reference:
    """The result of the reference library for one text or pair."""

    kind: str
    ids: list[int]
    value: npt.NDArray[np.float32]
    """A row, shape (dimensions,), or a score, shape ()."""


def read_reference(name: str, checkpoint: Path) -> list[Reference]:
    """Read encoder_NAME.npz, which must have been computed with the weights of this checkpoint."""
    with np.load(_FOLDER / f"encoder_{name}.npz") as stored:
        arrays: dict[str, npt.NDArray[Any]] = dict(stored)
    assert str(arrays["sha256"]) == checkpoint_sha256(checkpoint), "the weights have changed: run make_encoder_rows.py again"
    ends = np.cumsum(arrays["lengths"])
    ids = np.split(arrays["ids"], ends[:-1])
    return [
        Reference(str(kind), numbers.tolist(), value)
        for kind, numbers, value in zip(arrays["kinds"], ids, arrays["values"], strict=True)
    ]
