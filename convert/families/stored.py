"""The tensors of a checkpoint, taken one by one: each must exist with the right shape, and none may be left over."""

from __future__ import annotations

from collections.abc import Callable

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import PlannedTensor
from edgeembed_convert.weights import StoredTensor


class StoredTensors:
    """The tensors of a checkpoint that are not yet in the plan, by their names in the plain model.

    Programs save a model as part of another one, with something before each name: sentence-transformers' `0.auto_model.`, or
    that of the class with a head. What is before the first tensor that is asked for is removed from all names that have it.
    """

    def __init__(self, checkpoint: Checkpoint, plain_name: Callable[[str], str | None], model: str) -> None:
        """Prepare. plain_name: returns a name in the plain model, None for unneeded tensors. model: its name in messages.

        Raises ConversionError if two tensors get the same name.
        """
        self._checkpoint = checkpoint
        self._model = model
        self._plain_name = plain_name
        self._prefix: str | None = None
        self._left = self._named("")

    def _named(self, prefix: str) -> dict[str, StoredTensor]:
        found: dict[str, StoredTensor] = {}
        for name, tensor in self._checkpoint.weights.tensors.items():
            plain = self._plain_name(name.removeprefix(prefix))
            if plain is None:
                continue
            if plain in found:
                raise ConversionError(
                    f"{tensor.file}: {found[plain].name} and {name} are the same tensor of the {self._model}"
                )
            found[plain] = tensor
        return found

    def _find_prefix(self, wanted: str) -> None:
        """Remove what is before the first wanted tensor from all names. Raises ConversionError if that is unclear."""
        if self._prefix is not None or wanted in self._left:
            self._prefix = self._prefix or ""
            return
        found = sorted(name.removesuffix(wanted) for name in self._left if name.endswith(f".{wanted}"))
        if len(found) > 1:
            raise ConversionError(
                f"{self._checkpoint.model_folder}: the weights have {wanted} several times, after "
                f"{', '.join(map(repr, found))}: they are those of several models"
            )
        if found:
            self._prefix = next(
                name.removesuffix(wanted) for name in self._checkpoint.weights.tensors if name.endswith(found[0] + wanted)
            )
            self._left = self._named(self._prefix)

    def __contains__(self, name: str) -> bool:
        self._find_prefix(name)
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, which stays; (0,) if it is missing, which `take` will report."""
        return self._left[name].shape if name in self else (0,)

    def take(self, name: str, *shape: int) -> StoredTensor:
        """Remove and return a tensor. Raises ConversionError if it is missing or has another shape."""
        self._find_prefix(name)
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise ConversionError(
                f"{self._checkpoint.model_folder}: tensor {name} is missing from the weights, but required by config.json"
            )
        if tensor.shape != shape:
            raise ConversionError(
                f"{tensor.file}: tensor {tensor.name} has the shape {list(tensor.shape)}; config.json requires {list(shape)}"
            )
        return tensor

    def place(self, name: str, target: str, *shape: int, keep_f32: bool = False) -> PlannedTensor:
        """Take a tensor, for the name `target` in the GGUF file."""
        return PlannedTensor(target, self.take(name, *shape), keep_f32)

    def check_all_placed(self) -> None:
        """Raise ConversionError if a tensor has not been taken."""
        if self._left:
            names = ", ".join(sorted(self._left)[:5])
            raise ConversionError(
                f"{self._checkpoint.model_folder}: {len(self._left)} tensors do not belong to a {self._model}"
                f" and would be lost: {names}"
            )
