"""A model as requests see it: its name, its file, and what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgeembed.engine.classes import Classes
from edgeembed.engine.interface import DENSE, OUTPUTS, Output, Task
from edgeembed.hub.catalogue import Matryoshka, Prompts
from edgeembed.hub.store import InstalledModel

_MOST_DIMENSIONS = 4096
"""Numbers that a token's vector is taken to have if the model's file does not say."""


@dataclass(frozen=True)
class ServedModel:
    """A model as requests see it. Two with the same `key` are equal."""

    name: str
    digest: str
    """SHA-256 of the model file."""
    type: str = "unknown"
    task: Task = "embed"
    path: Path = Path()
    prompts: Prompts | None = None
    dimensions: int | None = None
    """Length of its vectors, if the file states it."""
    classes: Classes | None = None
    """Of a classifier."""
    matryoshka: Matryoshka | None = None
    max_seq_length: int | None = None
    """The length in tokens for which its makers use it, if it takes longer texts."""
    size_bytes: int = 0
    created: int = 0
    """When the file was installed, in Unix seconds."""
    other_names: tuple[str, ...] = ()
    """Those of other programs, which their clients send; a name of `models` itself comes first."""
    mends: tuple[str, ...] = ()
    """How the frame of its file is mended: its rows are not those that earlier versions computed from the same file."""
    outputs: tuple[Output, ...] = DENSE
    """What its file has heads for. Besides, there are the hidden states of tokens ("tokens") of every local embedder."""
    max_sim: str | None = None
    """How it scores documents by the vectors of tokens, if it has any: sum or mean."""
    token_dimensions: int | None = None
    """Length of the vectors of tokens."""
    upstream: str | None = None
    """Base URL of the upstream server that computes it; `digest` is then upstream's identity."""

    @cached_property
    def key(self) -> tuple[str, str]:
        """Path and content of the file."""
        return str(self.path), self.digest

    @property
    def spec(self) -> str:
        """Name and type."""
        return f"{self.name}:{self.type}"

    @property
    def label(self) -> str:
        """Its label in the cache: name, type and the first digits of the digest."""
        return f"{self.spec}@{self.digest[:12]}"

    def computes(self, output: Output) -> bool:
        """Return whether it can compute an output of a text; no model but an embedder can."""
        return self.task == "embed" and (output in self.outputs or (output == "tokens" and self.upstream is None))

    @property
    def all_outputs(self) -> tuple[Output, ...]:
        """What it computes of texts."""
        return tuple(output for output in OUTPUTS if self.computes(output))

    def does(self, task: Task) -> bool:
        """Return whether a task is what it was made for. A model with vectors of tokens alone scores documents by them."""
        return self.task == task or (task == "rerank" and "multi" in self.outputs and "dense" not in self.outputs)

    def numbers_per_token(self, outputs: Sequence[Output]) -> int:
        """Return how many numbers a text's tokens have in these outputs, each; 0 if they have none."""
        states = self.dimensions or _MOST_DIMENSIONS
        widths = {"multi": self.token_dimensions or states, "tokens": states}
        return sum(widths.get(output, 0) for output in outputs)

    @property
    def row_dimensions(self) -> tuple[int, ...]:
        """How many numbers its rows may have, as far as that is known before it is loaded; empty if it is not."""
        if self.classes is not None:
            return (len(self.classes.labels),)
        if self.task == "rerank":
            return (1, 2)
        return () if self.dimensions is None else (self.dimensions,)


def served(model: InstalledModel) -> ServedModel:
    """Return an installed model as requests see it. Raises OSError if its file does not exist."""
    created = int(Path(model.path).stat().st_mtime)
    return ServedModel(
        name=model.name,
        digest=model.digest,
        type=model.type,
        task=model.task,
        path=Path(model.path),
        prompts=model.prompts,
        dimensions=model.dimensions,
        classes=model.classes,
        matryoshka=model.matryoshka,
        max_seq_length=model.max_seq_length,
        size_bytes=model.size_bytes,
        created=created,
        mends=model.mends,
        outputs=model.outputs,
        max_sim=model.max_sim,
        token_dimensions=model.token_dimensions,
        other_names=(model.entry.name, *model.entry.other_names) if model.entry else (),
    )
