"""Shared by the tests of the decoder families: conversion without canary rows, and the stored reference rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.without_proof import convert_checkpoint

QWEN3_ROWS = Path(__file__).parents[1] / "reference" / "qwen3_rows.npz"
"""Rows and scores of transformers, written by tests/reference/make_decoder_rows.py."""


def convert(checkpoint: Path, quantization: str = "F32", **options: Any) -> Path:
    """Convert to a file next to the checkpoint, without canary rows, and return its path."""
    target = checkpoint.with_suffix(".gguf")
    return convert_checkpoint(checkpoint, target, quantization=quantization, **options).path


def unpack(reference: Any, name: str) -> list[list[int]]:
    """Return the sequences of ids that make_decoder_rows.py packed into two arrays."""
    ends = np.cumsum(reference[f"{name}_lengths"])[:-1]
    return [[int(number) for number in ids] for ids in np.split(reference[f"{name}_ids"], ends)]
