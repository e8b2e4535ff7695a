"""Outputs: what is computed of a text besides its pooled row, and how several of them make one row.

A packed row is a float32 array with, for each of its outputs in the order of `OUTPUTS`, the number of rows, their width, and
their numbers. Pipe, cache and queues treat it as any other row. Ids of tokens are exact in it: they are below 2^24.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgeembed.engine.interface import DENSE, OUTPUTS, Float32Matrix, Float32Row, Output

OUTPUTS_KEY = "edgeembed.outputs"
"""Metadata key: the outputs of a file, separated by commas; without it, it has dense rows only."""
_HEAD = 2
"""Numbers before those of an output."""


def parse_outputs(text: str | None) -> tuple[Output, ...]:
    """Return the outputs that the metadata of a file name, in the order of OUTPUTS. Raises ValueError."""
    if text is None:
        return DENSE
    named = [part.strip() for part in text.split(",")]
    if unknown := [part for part in named if part not in OUTPUTS or part == "tokens"]:
        raise ValueError(f"{OUTPUTS_KEY} is {text!r}: {unknown[0]!r} is no output; expected dense, multi, sparse")
    return ordered(output for output in OUTPUTS if output in named)


def ordered(outputs: Iterable[Output]) -> tuple[Output, ...]:
    """Return outputs in the order of OUTPUTS, each once."""
    wanted = set(outputs)
    return tuple(output for output in OUTPUTS if output in wanted)


def pack(parts: Mapping[Output, Float32Matrix]) -> Float32Row:
    """Return the packed row of a text's outputs, each of shape (rows, width)."""
    arrays: list[Float32Row] = []
    for output in ordered(parts):
        part = parts[output]
        arrays += [np.array(part.shape, dtype=np.float32), part.ravel()]
    return np.concatenate(arrays).astype(np.float32, copy=False)


def unpack(row: Float32Row, outputs: Sequence[Output]) -> dict[Output, Float32Matrix]:
    """Return the outputs of a packed row, each of shape (rows, width), as views. Raises ValueError if it has others."""
    parts: dict[Output, Float32Matrix] = {}
    at = 0
    for output in ordered(outputs):
        if len(row) < at + _HEAD or not all(0 <= number < 2**24 for number in row[at : at + _HEAD]):
            raise ValueError(f"a packed row of {len(row)} numbers has no {output!r} at {at}")
        count, width = int(row[at]), int(row[at + 1])
        begin, at = at + _HEAD, at + _HEAD + count * width
        if at > len(row):
            raise ValueError(f"a packed row of {len(row)} numbers ends before the {count} rows of {output!r}")
        parts[output] = row[begin:at].reshape(count, width)
    if at != len(row):
        raise ValueError(f"a packed row has {len(row) - at} numbers more than its outputs")
    return parts


def is_packed(row: Float32Row) -> bool:
    """Return whether a row has the form of a packed one, whichever outputs it holds."""
    at = outputs = 0
    while at + _HEAD <= len(row) and outputs < len(OUTPUTS):
        count, width = row[at : at + _HEAD].tolist()
        if not (count.is_integer() and width.is_integer() and 0 <= count < 2**24 and 0 <= width < 2**24):
            return False
        at, outputs = at + _HEAD + int(count) * int(width), outputs + 1
    return outputs > 0 and at == len(row)
