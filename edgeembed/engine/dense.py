"""Dense layers behind the pooling: a matrix, a bias, a function of each number; as in LaBSE, sentence-t5, distiluse, stella.

llama.cpp computes such layers in the graphs of a few architectures only, and refuses a file with tensors that its graph does
not use. So they are stored as metadata under `edgeembed.dense.*`, and computed here from the rows that llama.cpp pooled:
some ten thousandths of a forward pass's work. Sizes of inputs are not stored: each layer takes what the one before returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeembed.engine.float_strings import decode_floats, encode_floats, encoded_length
from edgeembed.engine.interface import Float32Matrix

COUNT_KEY = "edgeembed.dense.count"
MOST_LAYERS = 4
LONGEST_ROW = 2**17
LONGEST_WEIGHT = 16 * 2**20
"""In base64, of one matrix: the longest string that is read from a file's metadata."""


def outputs_key(layer: int) -> str:
    """Return the metadata key of a layer's number of outputs."""
    return f"edgeembed.dense.{layer}.outputs"


def _key(layer: int, part: str) -> str:
    return f"edgeembed.dense.{layer}.{part}"


class DenseError(ValueError):
    """The metadata do not describe dense layers; the message names the key."""


def _tanh(rows: Float32Matrix) -> Float32Matrix:
    return np.tanh(rows)


def _relu(rows: Float32Matrix) -> Float32Matrix:
    return np.maximum(rows, np.float32(0))


def _gelu(rows: Float32Matrix) -> Float32Matrix:
    """Return x times the normal distribution at x (Hendrycks and Gimpel, 2016)."""
    found: Float32Matrix = rows * (0.5 + 0.5 * _erf(rows / math.sqrt(2)).astype(np.float32))
    return found


_erf = np.frompyfunc(math.erf, 1, 1)

ACTIVATIONS: Mapping[str, Callable[[Float32Matrix], Float32Matrix] | None] = {
    "identity": None,
    "tanh": _tanh,
    "relu": _relu,
    "gelu": _gelu,
}
"""Functions of each number of a row."""


@dataclass(frozen=True)
class DenseLayer:
    """weight: float32, shape (outputs, inputs). bias: float32, shape (outputs,). activation: a key of ACTIVATIONS."""

    weight: Float32Matrix
    bias: Float32Matrix | None = None
    activation: str = "identity"

    def apply(self, rows: Float32Matrix) -> Float32Matrix:
        """Return float32, shape (texts, outputs), from float32, shape (texts, inputs)."""
        found: Float32Matrix = rows @ self.weight.T
        if self.bias is not None:
            found += self.bias
        function = ACTIVATIONS[self.activation]
        return found if function is None else function(found)


@dataclass(frozen=True)
class DenseHead:
    """One or more dense layers, one after the other."""

    layers: Sequence[DenseLayer]

    @property
    def inputs(self) -> int:
        """Length of a row of llama.cpp."""
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Length of a row."""
        return len(self.layers[-1].weight)

    def apply(self, rows: Float32Matrix) -> Float32Matrix:
        """Return float32, shape (texts, outputs), from float32, shape (texts, inputs)."""
        for layer in self.layers:
            rows = layer.apply(rows)
        return rows

    def metadata(self) -> dict[str, str | int]:
        """Return the keys for a file."""
        keys: dict[str, str | int] = {COUNT_KEY: len(self.layers)}
        for number, layer in enumerate(self.layers):
            keys[outputs_key(number)] = len(layer.weight)
            keys[_key(number, "activation")] = layer.activation
            keys[_key(number, "weight")] = encode_floats(layer.weight)
            if layer.bias is not None:
                keys[_key(number, "bias")] = encode_floats(layer.bias)
        return keys


def read_head(value: Callable[[str], str | None], width: int) -> DenseHead | None:
    """Return the dense layers of a file; None if it has none.

    value: returns a metadata value as text, or None. width: length of the rows that llama.cpp pools.
    Raises DenseError.
    """
    if value(COUNT_KEY) is None:
        return None
    layers: list[DenseLayer] = []
    for number in range(_number(value, COUNT_KEY, MOST_LAYERS)):
        outputs = _number(value, outputs_key(number), LONGEST_ROW)
        activation = value(_key(number, "activation"))
        if activation is None or activation not in ACTIVATIONS:
            raise DenseError(
                f"key {_key(number, 'activation')!r} is {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        weight = _numbers(value, _key(number, "weight"), outputs * width).reshape(outputs, width)
        bias = _numbers(value, _key(number, "bias"), outputs) if value(_key(number, "bias")) is not None else None
        layers.append(DenseLayer(weight, bias, activation))
        width = outputs
    return DenseHead(layers)


def _number(value: Callable[[str], str | None], key: str, most: int) -> int:
    text = value(key)
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise DenseError(f"key {key!r} is {text!r}, expected a number from 1 to {most}")
    return int(text)


def _numbers(value: Callable[[str], str | None], key: str, count: int) -> Float32Matrix:
    text = value(key)
    if text is None or len(text) != encoded_length(count):
        raise DenseError(f"key {key!r} is missing or does not have {count} numbers, as the other keys require")
    try:
        found = decode_floats(text)  # a string of that length has `count` numbers, or is refused
    except ValueError as error:
        raise DenseError(f"key {key!r}: {error}") from error
    if not np.isfinite(found).all():
        raise DenseError(f"key {key!r} has a number that is not finite")
    return found
