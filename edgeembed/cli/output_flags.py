"""Flags that say what is computed of each text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeembed.engine.interface import Output

F = TypeVar("F", bound=Callable[..., Any])

_HELP = {
    "dense": "Compute one vector of each text.  [default, unless another kind is named]",
    "sparse": "Compute weights of the vocabulary's tokens (SPLADE, bge-m3).",
    "multi-vector": "Compute vectors for late interaction (ColBERT, bge-m3).",
    "token-vectors": "Compute the last hidden state of each token, with any embedder.",
}


def output_options(*only: str) -> Callable[[F], F]:
    """Add a flag for each output, or for those named."""

    def decorate(function: F) -> F:
        for name in reversed(only or tuple(_HELP)):
            function = click.option(f"--{name}", is_flag=True, help=_HELP[name])(function)
        return function

    return decorate


def outputs_of(*, dense: bool, sparse: bool, multi_vector: bool, token_vectors: bool = False) -> tuple[Output, ...]:
    """Return the outputs that flags name, in the order of OUTPUTS."""
    from edgeembed.engine.interface import DENSE
    from edgeembed.engine.outputs import ordered

    named: dict[Output, bool] = {"dense": dense, "multi": multi_vector, "sparse": sparse, "tokens": token_vectors}
    return ordered(output for output, is_wanted in named.items() if is_wanted) or DENSE
