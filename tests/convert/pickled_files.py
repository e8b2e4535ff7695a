"""Write files in the format of torch.save, true and hostile ones, without torch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
DICTIONARY = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    """Return the opcode of a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Return the opcode of a number."""
    return b"\x8a" + bytes([16]) + value.to_bytes(16, "little", signed=True)


def numbers(values: Sequence[int]) -> bytes:
    """Return the opcodes of a tuple."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, kind: str, size: int) -> bytes:
    """Return the opcodes of a reference to values."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(size) + b"tQ"


def tensor(
    key: str, shape: Sequence[int], *, kind: str = "FloatStorage", offset: int = 0, strides: Sequence[int] | None = None
) -> bytes:
    """Return the opcodes of a tensor, in order unless `strides` are given."""
    if strides is None:
        strides = [int(np.prod(shape[at + 1 :], dtype=object)) for at in range(len(shape))]
    values = storage(key, kind, int(np.prod(shape, dtype=object))) + number(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + values + b"\x89" + DICTIONARY + b"tR"


def state(entries: Mapping[str, bytes]) -> bytes:
    """Return the pickle of a dictionary."""
    return b"\x80\x02" + DICTIONARY + b"(" + b"".join(text(name) + value for name, value in entries.items()) + b"u."


def write_archive(file: Path, pickle: bytes, records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive: the pickle, and the other files by name."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in {"data.pkl": pickle, **records}.items():
            # The same bytes each time: ZipInfo's date is fixed.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content, compression)


def write_pickled(file: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the tensors as torch.save would."""
    entries, records = {}, {"byteorder": b"little"}
    for at, (name, values) in enumerate(tensors.items()):
        entries[name] = tensor(str(at), values.shape, kind=STORAGES[str(values.dtype)])
        records[f"data/{at}"] = values.tobytes()
    write_archive(file, state(entries), {**records, "version": b"3\n"})
