"""Changes of llama.cpp's graph, for architectures that it lacks: the interface, and what all have in common.

llama.cpp shows each node of its graph to an evaluation callback before it computes it. There the node can be changed; the
graph is still computed in one go, and nothing twice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from edgeembed.engine.llama.ggml import EvalCallback, Tensor
from edgeembed.engine.llama.library import ComputeError

Watch = Callable[[int, bool, object], bool]
"""An evaluation callback: (address of a tensor, whether llama.cpp asks, user data) -> bool."""

_OP_AT = Tensor.op.offset


class GraphChange:
    """Changes one node in every layer of the passes of a context. One thread at a time."""

    def __init__(self, operation: int, layers: int, watch: Watch | None = None) -> None:
        """operation: ggml's number, of nodes that every layer has one of.

        watch: called with all other nodes; llama.cpp takes one callback only.
        """
        self._watch = watch
        self._operation = operation
        self._layers = layers
        self._changed = 0
        self._callback = EvalCallback(self._evaluate)  # llama.cpp keeps only the address

    def configure(self, params: Any) -> None:
        """Set what is needed in the context's parameters."""
        params.cb_eval = self._callback

    def expect(self, lengths: Sequence[int]) -> None:
        """Prepare for a forward pass over texts of these lengths, which all begin at their first token."""
        self._changed = 0

    def check(self) -> None:
        """Raise ComputeError unless every layer of the pass was changed."""
        if self._changed != self._layers:
            raise ComputeError(f"llama.cpp computed {self._changed} of {self._layers} layers as the model needs it")

    def change(self, node: Tensor) -> bool:
        """Change a node with this operation, and return whether it is now as it has to be; it may have been before."""
        raise NotImplementedError

    def _evaluate(self, address: int, asking: bool, user_data: object) -> bool:
        # A few hundred calls before each pass, about 0.1 ms.
        if ctypes.c_int.from_address(address + _OP_AT).value != self._operation:
            return self._watch(address, asking, user_data) if self._watch else False
        self._changed += self.change(Tensor.from_address(address))
        return False
