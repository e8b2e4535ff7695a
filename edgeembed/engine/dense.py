"""Dense layers behind the pooling: a matrix, a bias, a function of each number; as in LaBSE, sentence-t5, distiluse, stella.

llama.cpp computes such layers in the graphs of a few architectures only, and refuses a file with tensors that its graph does
not use. So they are stored as metadata under `edgeembed.dense.*`, and computed here from the rows that llama.cpp pooled:
some ten thousandths of a forward pass's work. Sizes of inputs are not stored: each layer takes what the one before returns.
Layers of other heads have the same keys under another prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeembed.engine.float_strings import encode_floats, read_floats
from edgeembed.engine.interface import Float32Matrix

PREFIX = "edgeembed.dense"
COUNT_KEY = f"{PREFIX}.count"
MOST_LAYERS = 4
LONGEST_ROW = 2**17
LONGEST_WEIGHT = 16 * 2**20
"""In base64, of one matrix: the longest string that is read from a file's metadata."""


def outputs_key(layer: int, prefix: str = PREFIX) -> str:
    """Return the metadata key of a layer's number of outputs."""
    return _key(layer, "outputs", prefix)


def _key(layer: int, part: str, prefix: str) -> str:
    return f"{prefix}.{layer}.{part}"


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
_SAME = "identity"
"""The residual of a layer that adds its input as it is."""


@dataclass(frozen=True)
class DenseLayer:
    """weight: float32, shape (outputs, inputs). bias: float32, shape (outputs,). activation: a key of ACTIVATIONS.

    residual: of a layer that adds its input to its result: the matrix that the input is multiplied by, of the shape of
    `weight`, or "identity"; None for a layer that does not.
    """

    weight: Float32Matrix
    bias: Float32Matrix | None = None
    activation: str = "identity"
    residual: Float32Matrix | Literal["identity"] | None = None

    def apply(self, rows: Float32Matrix) -> Float32Matrix:
        """Return float32, shape (texts, outputs), from float32, shape (texts, inputs)."""
        found: Float32Matrix = rows @ self.weight.T
        if self.bias is not None:
            found += self.bias
        function = ACTIVATIONS[self.activation]
        found = found if function is None else function(found)
        if self.residual is None:
            return found
        return found + (rows if isinstance(self.residual, str) else rows @ self.residual.T)


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

    def metadata(self, prefix: str = PREFIX) -> dict[str, str | int]:
        """Return the keys for a file."""
        keys: dict[str, str | int] = {f"{prefix}.count": len(self.layers)}
        for number, layer in enumerate(self.layers):
            keys[outputs_key(number, prefix)] = len(layer.weight)
            keys[_key(number, "activation", prefix)] = layer.activation
            keys[_key(number, "weight", prefix)] = encode_floats(layer.weight)
            if layer.bias is not None:
                keys[_key(number, "bias", prefix)] = encode_floats(layer.bias)
            if layer.residual is not None:
                same = isinstance(layer.residual, str)
                keys[_key(number, "residual", prefix)] = _SAME if same else encode_floats(np.asarray(layer.residual))
        return keys


def read_head(
    value: Callable[[str], str | None], width: int, prefix: str = PREFIX, longest: int = LONGEST_ROW
) -> DenseHead | None:
    """Return the dense layers of a file; None if it has none.

    value: returns a metadata value as text, or None. width: length of the rows that the first layer gets. prefix: of the
    keys. longest: the most numbers that a layer may return. Raises ValueError, which names the key.
    """
    if value(f"{prefix}.count") is None:
        return None
    layers: list[DenseLayer] = []
    for number in range(_number(value, f"{prefix}.count", MOST_LAYERS)):
        layers.append(_read_layer(value, number, width, prefix, longest))
        width = len(layers[-1].weight)
    return DenseHead(layers)


def _read_layer(value: Callable[[str], str | None], number: int, width: int, prefix: str, longest: int) -> DenseLayer:
    def key(part: str) -> str:
        return _key(number, part, prefix)

    outputs = _number(value, outputs_key(number, prefix), longest)
    activation = value(key("activation"))
    if activation is None or activation not in ACTIVATIONS:
        raise ValueError(f"key {key('activation')!r} is {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    weight = read_floats(value, key("weight"), outputs * width).reshape(outputs, width)
    bias = read_floats(value, key("bias"), outputs) if value(key("bias")) is not None else None
    residual: Float32Matrix | Literal["identity"] | None = None
    if (stored := value(key("residual"))) == _SAME:
        residual = "identity"
        if outputs != width:
            raise ValueError(f"key {key('residual')!r} is {_SAME!r}, but the layer makes {outputs} numbers of {width}")
    elif stored is not None:
        residual = read_floats(value, key("residual"), outputs * width).reshape(outputs, width)
    return DenseLayer(weight, bias, activation, residual)


def _number(value: Callable[[str], str | None], key: str, most: int) -> int:
    text = value(key)
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise ValueError(f"key {key!r} is {text!r}, expected a number from 1 to {most}")
    return int(text)
