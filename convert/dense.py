"""Dense modules of sentence-transformers behind the pooling: LaBSE, distiluse, sentence-t5, gtr, stella.

Families whose graph in llama.cpp computes them place their weights as tensors; all others are computed by our engine, from
the metadata of the file (`edgeembed.engine.dense`).
Format: sentence_transformers/models/Dense.py: config.json, and `linear.weight` and `linear.bias` in model.safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeembed.engine.dense import LONGEST_WEIGHT, MOST_LAYERS, DenseHead, DenseLayer
from edgeembed.engine.float_strings import encoded_length
from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint, torch_class
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.weights import StoredTensor, open_weights

# Classes of torch.nn; their modules in torch have changed.
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
_DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"
# Which values of a text's features the module reads and replaces.
_VECTOR = "sentence_embedding"
_KEYS = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}


@dataclass(frozen=True)
class DenseModule:
    """A Dense module whose weights have not been read. weight: shape (outputs, inputs). activation: as in DenseLayer."""

    folder: Path
    weight: StoredTensor
    bias: StoredTensor | None
    activation: str

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix alone."""
        return self.bias is None and self.activation == "identity"


def dense_modules(checkpoint: Checkpoint, width: int) -> list[DenseModule]:
    """Return the Dense modules of a checkpoint; empty if it has none. width: length of a pooled row.

    Raises ConversionError if one is malformed, does not fit the one before, or is not between pooling and Normalize.
    """
    kinds = [kind for kind, _ in checkpoint.modules or [] if kind != "Dropout"]
    folders = [folder for kind, folder in checkpoint.modules or [] if kind == "Dense"]
    if not folders:
        return []
    file = checkpoint.folder / "modules.json"
    wanted = ["Transformer", "Pooling", *["Dense"] * len(folders)]
    if kinds not in (wanted, [*wanted, "Normalize"]) or len(folders) > MOST_LAYERS:
        raise ConversionError(
            f"{file}: modules {', '.join(kinds)}; Dense ones (at most {MOST_LAYERS}) must be between Pooling and Normalize"
        )
    found = [_read_module(folder) for folder in folders]
    for module in found:
        if module.weight.shape[1] != width:
            raise ConversionError(f"{module.folder}: in_features is {module.weight.shape[1]}, but it gets rows of {width}")
        width = module.weight.shape[0]
    return found


def read_dense(checkpoint: Checkpoint, width: int) -> DenseHead | None:
    """Return the Dense modules of a checkpoint for our engine, with their weights; None if there are none.

    width: length of a pooled row. Raises ConversionError.
    """
    layers = []
    for module in dense_modules(checkpoint, width):
        if encoded_length(module.weight.size) > LONGEST_WEIGHT:
            raise ConversionError(
                f"{module.weight.file}: a Dense module of {module.weight.shape[1]} x {module.weight.shape[0]} numbers is "
                "too large to be stored"
            )
        bias = None if module.bias is None else module.bias.values()
        layers.append(DenseLayer(module.weight.values(), bias, module.activation))
    return DenseHead(layers) if layers else None


def _read_module(folder: Path) -> DenseModule:
    file = folder / "config.json"
    config = read_json(file)
    name = config.get("activation_function", _DEFAULT_ACTIVATION)
    activation = _ACTIVATIONS.get(torch_class(name) or "")
    if activation is None:
        raise ConversionError(f"{file}: activation_function = {name!r}; supported are torch.nn's {', '.join(_ACTIVATIONS)}")
    if unknown := sorted(config.keys() - _KEYS):
        raise ConversionError(f"{file}: unknown settings of a Dense module: {', '.join(unknown)}")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, _VECTOR) not in (_VECTOR, None):
            raise ConversionError(f"{file}: {key} = {config[key]!r}; supported is only {_VECTOR!r}, a Dense of the vector")
    biased = config.get("bias", True)
    tensors = open_weights(folder).tensors
    wanted = {"linear.weight", "linear.bias"} if biased else {"linear.weight"}
    if set(tensors) != wanted:
        raise ConversionError(
            f"{folder}: a Dense module with bias = {biased!r} has the weights {sorted(tensors)}; expected {sorted(wanted)}"
        )
    outputs, inputs = config.get("out_features"), config.get("in_features")
    for tensor, shape in ((tensors["linear.weight"], (outputs, inputs)), (tensors.get("linear.bias"), (outputs,))):
        if tensor is not None and tensor.shape != shape:
            raise ConversionError(
                f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}; according to {file.name} it "
                f"must be {list(shape)}"
            )
    return DenseModule(folder, tensors["linear.weight"], tensors.get("linear.bias"), activation)
