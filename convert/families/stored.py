"""The tensors of a checkpoint, taken one by one: each must be there with the promised shape, and none may be left over."""

from __future__ import annotations

from collections.abc import Callable

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import PlannedTensor
from edgeembed_convert.weights import StoredTensor


class StoredTensors:
    """A checkpoint's tensors under plain names, until each has found its place in the plan."""

    def __init__(self, checkpoint: Checkpoint, plain_name: Callable[[str], str | None], model: str) -> None:
        """Name every tensor by `plain_name`, which gives None for those that `model` computes nothing with.

        Raises ConversionError when two tensors get one name.
        """
        self._checkpoint = checkpoint
        self._model = model
        self._left: dict[str, StoredTensor] = {}
        for name, tensor in checkpoint.weights.tensors.items():
            plain = plain_name(name)
            if plain is None:
                continue
            if plain in self._left:
                raise ConversionError(f"{tensor.file}: {self._left[plain].name} and {name} are the same tensor of a {model}")
            self._left[plain] = tensor

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *shape: int) -> StoredTensor:
        """Give a tensor and count it as placed. Raises ConversionError when it is not there or has another shape."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise ConversionError(
                f"{self._checkpoint.model_folder}: the weights have no tensor {name}, which config.json promises"
            )
        if tensor.shape != shape:
            raise ConversionError(
                f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}, config.json makes it {list(shape)}"
            )
        return tensor

    def place(self, name: str, target: str, *shape: int, keep_f32: bool = False) -> PlannedTensor:
        """Take a tensor for the name `target` in the GGUF file."""
        return PlannedTensor(target, self.take(name, *shape), keep_f32)

    def check_all_placed(self) -> None:
        """Raise ConversionError when a tensor was not taken."""
        if self._left:
            names = ", ".join(sorted(self._left)[:5])
            raise ConversionError(
                f"{self._checkpoint.model_folder}: {len(self._left)} tensors have no place in a {self._model}"
                f" and would be lost: {names}"
            )
