"""The form of a public model: its classes, files and keys, made small and with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.convert.encoder_texts import PAIRS, TEXTS


@dataclass(frozen=True)
class Form:
    """A kind of checkpoint that is published. `make` writes one; its rows are compared with those of a reference."""

    name: str
    """That of the reference rows, tests/reference/zoo/NAME.npz."""
    models: tuple[str, ...]
    """Public models of this form, with their owners; the most used first."""
    model_class: str
    """The class in config.json."""
    make: Callable[[Path], Path]
    """Write the checkpoint into a folder, and return it: the keys of the public model, seeded random weights."""
    pooling: str
    """mean, cls or last; rank for models that score pairs, and for classifiers."""
    labels: int = 0
    """Of a classifier; 0 for other models."""
    pairs: bool = True
    """Whether a classifier takes pairs, too."""
    reference: str = "transformers"
    """What computes the reference rows: `transformers` (also `transformers:CLASS`), `sentence_transformers` (with all its
    modules but Normalize), or a module of tests/reference/zoo_models that has `rows(folder)`."""
    outputs: tuple[str, ...] = ("dense",)
    """What the model computes of a text (`edgeembed.engine.outputs`). With more than the dense row, the reference is a
    module with `outputs(folder) -> list[Outputs]` (tests/convert/zoo/rows.py) in place of `rows`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """ConversionOptions by name, such as the task."""
    least: float = 0.9999
    """The least cosine to the reference at F32."""
    least_at_q8_0: float = 0.99
    """The least cosine at Q8_0: random weights lose more than trained ones."""
    most: float = 2e-3
    """The largest difference of a score to the reference at F32."""
    most_at_q8_0: float = 0.1
    context: int = 640
    """Tokens of the longest text that the model takes."""
    pre: str = ""
    """The pre-tokenizer that llama.cpp's converter finds for the public model, whose vocabulary it knows by a hash."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are not those of llama.cpp's own converter at F16, each with the reason."""
    refused: str | None = None
    """For a form that cannot be converted: a regular expression for the message. No rows are needed then."""

    @property
    def task(self) -> Literal["embed", "rerank", "classify"]:
        """What the model computes."""
        return "embed" if self.pooling != "rank" else "classify" if self.labels else "rerank"

    @property
    def inputs(self) -> dict[str, str | tuple[str, str]]:
        """The texts and pairs of which there are reference rows, by name."""
        match self.task:
            case "embed":
                return {**TEXTS}
            case "rerank":
                return {**PAIRS}
            case "classify":
                return {**TEXTS, **({f"pair, {name}": pair for name, pair in PAIRS.items()} if self.pairs else {})}
