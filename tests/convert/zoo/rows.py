"""The reference rows of a form, as tests/reference/make_zoo_rows.py stores them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parents[2] / "reference" / "zoo"


@dataclass(frozen=True)
class Reference:
    """The result of the reference library for one text or pair."""

    kind: str
    """A key of TEXTS or PAIRS in tests/convert/encoder_texts.py."""
    ids: list[int]
    value: npt.NDArray[np.float32]
    """A row, shape (dimensions,), a score, shape (), or logits, shape (labels,)."""


def checkpoint_sha256(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, to which reference rows belong: of all files with weights, by name."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_rows(name: str, checkpoint: Path) -> list[Reference]:
    """Return the reference of each text, which must have been computed with the weights of this checkpoint."""
    arrays = _read(name)
    assert str(arrays["sha256"]) == checkpoint_sha256(checkpoint), f"the weights have changed: make_zoo_rows {name}"
    ends = np.cumsum(arrays["lengths"])
    ids = np.split(arrays["ids"], ends[:-1])
    return [
        Reference(str(kind), numbers.tolist(), value)
        for kind, numbers, value in zip(arrays["kinds"], ids, arrays["values"], strict=True)
    ]


def read_digests(name: str) -> dict[str, str]:
    """Return the digest of each tensor in the F16 file of llama.cpp's own converter; empty if it does not know the form."""
    arrays = _read(name)
    return dict(zip(map(str, arrays["tensors"]), map(str, arrays["digests"]), strict=True)) if "tensors" in arrays else {}


def tensor_digest(kind: str, shape: tuple[int, ...], data: npt.NDArray[Any]) -> str:
    """Return 16 hexadecimal digits for a tensor of a GGUF file: its type, its shape as stored, and its bytes."""
    head = f"{kind} {' '.join(map(str, shape))} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(data).tobytes()).hexdigest()[:16]


def file_digests(file: Path) -> dict[str, str]:
    """Return the digest of each tensor in a GGUF file."""
    from gguf import GGUFReader

    return {
        tensor.name: tensor_digest(tensor.tensor_type.name, tuple(map(int, tensor.shape)), tensor.data)
        for tensor in GGUFReader(file).tensors
    }


def _read(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(FOLDER / f"{name}.npz") as stored:
        return dict(stored)
