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


@dataclass(frozen=True)
class Outputs:
    """The result of the reference library for one text, by output: dense (1, dimensions), multi (vectors, dimensions) of
    length 1, sparse (words, 2) with ids and weights.
    """

    kind: str
    """A key of TEXTS in tests/convert/encoder_texts.py."""
    role: str
    """What the text is for: query or document; empty if the model reads both alike."""
    ids: list[int]
    """As the encoder reads them."""
    values: dict[str, npt.NDArray[np.float32]]


_STEPS = {"multi": 32767}
"""Outputs with numbers from -1 to 1 are stored as multiples of a small step: a file has some ten thousand."""


def pack_outputs(found: list[Outputs]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file for `read_outputs`."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "kinds": np.array([one.kind for one in found]),
        "roles": np.array([one.role for one in found]),
        "lengths": np.array([len(one.ids) for one in found], dtype=np.int32),
        "ids": np.concatenate([np.array(one.ids, dtype=np.int32) for one in found]),
    }
    for output in found[0].values:
        parts = [one.values[output] for one in found]
        values = np.concatenate([part.ravel() for part in parts])
        if steps := _STEPS.get(output):
            assert np.abs(values).max() <= 1
            arrays[output] = np.round(values * steps).astype(np.int16)
        else:
            arrays[output] = values.astype(np.float32)
        arrays[f"{output} shapes"] = np.array([part.shape for part in parts], dtype=np.int32)
    return arrays


def read_outputs(name: str, checkpoint: Path, outputs: tuple[str, ...]) -> list[Outputs]:
    """Return the reference of each text, which must have been computed with the weights of this checkpoint."""
    arrays = _read(name)
    _check_weights(name, arrays, checkpoint)
    ids = np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
    values = {}
    for output in outputs:
        shapes = arrays[f"{output} shapes"]
        numbers = arrays[output].astype(np.float32) / _STEPS.get(output, 1)
        parts = np.split(numbers, np.cumsum(shapes.prod(axis=1))[:-1])
        values[output] = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    return [
        Outputs(str(kind), str(role), numbers.tolist(), {output: values[output][place] for output in outputs})
        for place, (kind, role, numbers) in enumerate(zip(arrays["kinds"], arrays["roles"], ids, strict=True))
    ]


def checkpoint_sha256(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, to which reference rows belong: of all files with weights, by name."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".pt")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_rows(name: str, checkpoint: Path) -> list[Reference]:
    """Return the reference of each text, which must have been computed with the weights of this checkpoint."""
    arrays = _read(name)
    _check_weights(name, arrays, checkpoint)
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


def _check_weights(name: str, arrays: dict[str, npt.NDArray[Any]], checkpoint: Path) -> None:
    assert str(arrays["sha256"]) == checkpoint_sha256(checkpoint), f"the weights have changed: make_zoo_rows {name}"


def _read(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(FOLDER / f"{name}.npz") as stored:
        return dict(stored)
