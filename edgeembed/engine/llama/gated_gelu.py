"""GELU instead of SiLU in the gates of feed-forward networks, for GTE in the graph of `nomic-bert`."""

from __future__ import annotations

from edgeembed.engine.llama.ggml import GLU_OP_GEGLU_ERF, GLU_OP_SWIGLU, OP_GLU, Tensor
from edgeembed.engine.llama.graph_change import GraphChange, Watch


class GatedGelu(GraphChange):
    """Exchanges the function of the gates in the passes of one context."""

    def __init__(self, layers: int, watch: Watch | None = None) -> None:
        super().__init__(OP_GLU, layers, watch)

    def change(self, node: Tensor) -> bool:
        """Exchange the function. A graph that llama.cpp uses again has it already."""
        if node.op_params[0] == GLU_OP_SWIGLU:
            node.op_params[0] = GLU_OP_GEGLU_ERF
        return bool(node.op_params[0] == GLU_OP_GEGLU_ERF)
