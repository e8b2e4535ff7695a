"""Dense modules of sentence-transformers behind the pooling: LaBSE, distiluse, sentence-t5, gtr, stella.

Those of PyLate, which work on each token's state, may also add their input to their result (`use_residual`).

Families whose graph in llama.cpp computes them place their weights as tensors; all others are computed by our engine, from
the metadata of the file (`edgeembed.engine.dense`).
Format: sentence_transformers/models/Dense.py: config.json, and `linear.weight` and `linear.bias` in model.safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeembed.engine.dense import LONGEST_WEIGHT, MOST_LAYERS, DenseHead, DenseLayer
from edgeembed.engine.float_strings import encoded_length
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint, torch_class
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.weights import StoredTensor, open_weights

# Classes of torch.nn; their modules in torch have changed.
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
_DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"
"""sentence-transformers'; PyLate has another one, so modules of tokens must name theirs."""
# Which values of a text's features the module reads and replaces.
_VECTOR = "sentence_embedding"
_KEYS = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
_OF_TOKENS = "token_embeddings"


@dataclass(frozen=True)
class DenseModule:
    """A Dense module whose weights have not been read. weight: shape (outputs, inputs). activation: as in DenseLayer."""

    folder: Path
    weight: StoredTensor
    bias: StoredTensor | None
    activation: str
    residual: StoredTensor | Literal["identity"] | None = None

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix alone."""
        return self.bias is None and self.activation == "identity" and self.residual is None


def dense_modules(checkpoint: Checkpoint, width: int) -> list[DenseModule]:
    """Return the Dense modules of a checkpoint; empty if it has none. width: length of a pooled row.

    Raises ConversionError if one is malformed, does not fit the one before, or is not between pooling and Normalize.
    """
    kinds = [kind for kind, _ in checkpoint.modules or [] if kind != "Dropout"]
    folders = [folder for kind, folder in checkpoint.modules or [] if kind == "Dense"]
    if not folders:
        return []
    wanted = ["Transformer", "Pooling", *["Dense"] * len(folders)]
    if kinds not in (wanted, [*wanted, "Normalize"]) or len(folders) > MOST_LAYERS:
        raise ConversionError(
            f"{checkpoint.modules_file}: modules {', '.join(kinds)}; Dense ones (at most {MOST_LAYERS}) must be between "
            "Pooling and Normalize"
        )
    return _fitting([_read_module(folder) for folder in folders], width)


def dense_modules_of_tokens(folders: Sequence[Path], width: int) -> DenseHead:
    """Return PyLate's Dense modules in these folders, which project each token's state, with their weights.

    width: length of a state. Raises ConversionError.
    """
    return _head(_fitting([_read_module(folder, of_tokens=True) for folder in folders], width))


def _fitting(modules: list[DenseModule], width: int) -> list[DenseModule]:
    """Return the modules. Raises ConversionError if one does not fit the one before. width: of what the first one gets."""
    for module in modules:
        if module.weight.shape[1] != width:
            raise ConversionError(f"{module.folder}: in_features is {module.weight.shape[1]}, but it gets rows of {width}")
        width = module.weight.shape[0]
    return modules


def read_dense(checkpoint: Checkpoint, width: int) -> DenseHead | None:
    """Return the Dense modules of a checkpoint for our engine, with their weights; None if there are none.

    width: length of a pooled row. Raises ConversionError.
    """
    modules = dense_modules(checkpoint, width)
    return _head(modules) if modules else None


def layer_of(weight: StoredTensor, bias: StoredTensor | None, activation: str = "identity") -> DenseLayer:
    """Return a layer with its weights. Raises ConversionError if it is too large to be stored."""
    if encoded_length(weight.size) > LONGEST_WEIGHT:
        raise ConversionError(
            f"{weight.file}: a Dense module of {weight.shape[1]} x {weight.shape[0]} numbers is too large to be stored"
        )
    return DenseLayer(weight.values(), None if bias is None else bias.values(), activation)


def _head(modules: Sequence[DenseModule]) -> DenseHead:
    layers = []
    for module in modules:
        layer = layer_of(module.weight, module.bias, module.activation)
        residual = module.residual
        layers.append(replace(layer, residual=residual.values() if isinstance(residual, StoredTensor) else residual))
    return DenseHead(layers)


def _read_module(folder: Path, *, of_tokens: bool = False) -> DenseModule:
    file = folder / "config.json"
    config = read_json(file)
    name = config.get("activation_function", None if of_tokens else _DEFAULT_ACTIVATION)
    activation = _ACTIVATIONS.get(torch_class(name) or "")
    if activation is None:
        raise ConversionError(f"{file}: activation_function = {name!r}; supported are torch.nn's {', '.join(_ACTIVATIONS)}")
    if unknown := sorted(config.keys() - (_KEYS | {"use_residual"} if of_tokens else _KEYS)):
        raise ConversionError(f"{file}: unknown settings of a Dense module: {', '.join(unknown)}")
    taken = (_VECTOR, _OF_TOKENS, None) if of_tokens else (_VECTOR, None)  # PyLate's does not read these names
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, _VECTOR) not in taken:
            raise ConversionError(f"{file}: {key} = {config[key]!r}; supported is only {_VECTOR!r}, a Dense of the vector")
    biased, residual = config.get("bias", True), config.get("use_residual", False)
    tensors = open_weights(folder).tensors
    outputs, inputs = config.get("out_features"), config.get("in_features")
    wanted = {"linear.weight"} | ({"linear.bias"} if biased else set())
    if residual and inputs != outputs:
        wanted.add("residual.weight")
    if set(tensors) != wanted:
        raise ConversionError(
            f"{folder}: a Dense module with bias = {biased!r}{' and use_residual' if residual else ''} has the weights "
            f"{sorted(tensors)}; expected {sorted(wanted)}"
        )
    for name, shape in (
        ("linear.weight", (outputs, inputs)),
        ("linear.bias", (outputs,)),
        ("residual.weight", (outputs, inputs)),
    ):
        tensor = tensors.get(name)
        if tensor is not None and tensor.shape != shape:
            raise ConversionError(
                f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}; according to {file.name} it "
                f"must be {list(shape)}"
            )
    same: Literal["identity"] | None = "identity" if residual else None
    added = tensors.get("residual.weight", same)
    return DenseModule(folder, tensors["linear.weight"], tensors.get("linear.bias"), activation, added)
