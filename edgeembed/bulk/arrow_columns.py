"""What is computed of texts as columns of Arrow: of files, and of batches in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeembed.bulk.computed import Computed
from edgeembed.bulk.shards import Dtype
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.engine.interface import Output
from edgeembed.inference.number_formats import quantised
from edgeembed.inference.postprocess import Matrix


def stored(vectors: Matrix, dtype: Dtype) -> npt.NDArray[Any]:
    """Return vectors, shape (rows, dimensions), in the type in which they are stored.

    int8: scaled and rounded; binary: signs, eight in a byte, uint8 (see `edgeembed.inference.number_formats`).
    """
    return quantised(vectors, "ubinary" if dtype == "binary" else dtype)


def column_type(output: Output, width: int, dtype: Dtype) -> Any:
    """Return the type of a column: a vector, a list of vectors, or of sparse weights a map from token ids.

    width: numbers in a row of the output.
    """
    pa = import_pyarrow()
    if output == "sparse":
        return pa.map_(pa.int32(), pa.float32())
    number = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}
    vector = pa.list_(number[dtype], (width + 7) // 8 if dtype == "binary" else width)
    return vector if output == "dense" else pa.list_(vector)


def column_of(output: Output, computed: Computed, dtype: Dtype, type_: Any) -> Any:
    """Return an output of texts as an array of a type of `column_type`."""
    pa = import_pyarrow()
    if output == "dense":
        return _vectors(stored(computed.dense, dtype), type_)
    matrices = computed.others[output]
    offsets = pa.array(np.cumsum([0, *map(len, matrices)]), type=pa.int32())
    given = [rows for rows in matrices if len(rows)]
    if output == "sparse":
        whole = np.concatenate([np.zeros((0, 2), np.float32), *given])
        return pa.MapArray.from_arrays(offsets, pa.array(whole[:, 0].astype(np.int32)), pa.array(whole[:, 1]))
    if not given:
        return pa.ListArray.from_arrays(offsets, pa.array([], type=type_.value_type), type=type_)
    return pa.ListArray.from_arrays(offsets, _vectors(stored(np.concatenate(given), dtype), type_.value_type), type=type_)


def _vectors(numbers: npt.NDArray[Any], type_: Any) -> Any:
    pa = import_pyarrow()
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1), type=type_.value_type), type=type_)
