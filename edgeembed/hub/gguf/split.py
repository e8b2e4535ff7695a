"""Models in several files, as llama.cpp's llama-gguf-split writes them: NAME-00001-of-00003.gguf and so on.

The first file has the metadata, and each has some of the tensors. They are joined when a model is installed, so that a model
is one file everywhere else: one digest, one identity, one path that a worker may read.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgeembed.errors import HubError
from edgeembed.hub.gguf.file import STRING, UINT32, GgufHead, MalformedError, TensorInfo
from edgeembed.hub.gguf.header import open_gguf
from edgeembed.hub.gguf.tensors import alignment_of, check_layout, tensor_bytes, tensor_starts

PARTS_KEY, NUMBER_KEY, TENSORS_KEY = "split.count", "split.no", "split.tensors.count"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
_MOST_PARTS = 1000
_BLOCK = 4 * 2**20


@dataclass(frozen=True)
class _Part:
    path: Path
    head: GgufHead
    tensors: list[TensorInfo]
    starts: dict[str, int]
    """Where the data of each tensor begins."""


def parts_of(file: str) -> list[str]:
    """Return the names of all parts of the model that a file is a part of, in their order; empty for a whole model."""
    found = _PART.fullmatch(file)
    if found is None or not 1 <= int(found["count"]) <= _MOST_PARTS:
        return []
    return [f"{found['stem']}-{number:05}-of-{found['count']}.gguf" for number in range(1, int(found["count"]) + 1)]


def whole_name(file: str) -> str:
    """Return the name of a file of a model without the number of its part."""
    found = _PART.fullmatch(file)
    return f"{found['stem']}.gguf" if found else file


def parts_beside(path: Path) -> list[Path]:
    """Return all parts of the model that a file is a part of; empty for a whole model. Raises HubError if one is missing."""
    parts = [path.with_name(name) for name in parts_of(path.name)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise HubError(
            f"{path} is one of {len(parts)} parts of a model, of which {path.parent} lacks {', '.join(missing[:5])}; put "
            "all parts there"
        )
    return parts


def join_parts(
    parts: Sequence[Path],
    target: Path,
    progress: Callable[[int, int], None],
    instead: Mapping[str, int | str] | None = None,
) -> str:
    """Write the whole model to a new file, and return its SHA-256. progress: called with bytes done and in total.

    instead: metadata that is written in place of the first part's; a whole model, given as its only part, is copied with it.

    Raises HubError if a part is damaged, or does not belong to the others.
    """
    read = [_read(path, number, len(parts)) for number, path in enumerate(parts)]
    names = [tensor.name for part in read for tensor in part.tensors]
    claimed = read[0].head.values.get(TENSORS_KEY, len(names))
    if len(set(names)) != len(names) or claimed != len(names):
        raise HubError(f"{parts[0]}: the parts have {len(set(names))} tensors, but {claimed} are expected; get them again")
    with target.open("xb") as stream:
        writer = _Writer(stream, sum(tensor_bytes(tensor) for part in read for tensor in part.tensors), progress)
        _write_head(writer, read, instead or {})
        for part in read:
            with part.path.open("rb") as source:
                for tensor in part.tensors:
                    source.seek(part.starts[tensor.name])
                    writer.copy(source, tensor_bytes(tensor), part.path)
                    writer.pad(alignment_of(read[0].head))
    return writer.digest.hexdigest()


def _read(path: Path, number: int, count: int) -> _Part:
    with open_gguf(path) as reader:
        head = reader.head()
        tensors = reader.tensors(head)
        end = reader.position
        if tensors:  # the first part may have metadata alone
            check_layout(head, tensors, end, reader.size)
        said = (head.values.get(NUMBER_KEY), head.values.get(PARTS_KEY))
        if said != (number, count) and (said, count) != ((None, None), 1):
            raise MalformedError(f"it says that it is part {said[0]!r} of {said[1]!r}, expected {number} of {count}")
        return _Part(path, head, tensors, tensor_starts(head, tensors, end))


def _write_head(writer: _Writer, parts: Sequence[_Part], instead: Mapping[str, int | str]) -> None:
    """Write what precedes the data: the first part's metadata without the keys of parts, and all tensors."""
    first = parts[0].head
    left_out = {PARTS_KEY, NUMBER_KEY, TENSORS_KEY, *instead}
    spans = [span for key, span in first.spans.items() if key not in left_out]
    tensors = [tensor for part in parts for tensor in part.tensors]
    alignment = alignment_of(first)
    writer.write(b"GGUF" + struct.pack("<IQQ", first.version, len(tensors), len(spans) + len(instead)))
    with parts[0].path.open("rb") as source:
        for start, end in spans:
            source.seek(start)
            writer.write(source.read(end - start))
    for key, value in instead.items():
        writer.write(_string(key) + (struct.pack("<II", UINT32, value) if isinstance(value, int) else _text(value)))
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        writer.write(_string(tensor.name) + shape)
        writer.write(struct.pack("<IQ", tensor.kind, offset))
        offset += -(-tensor_bytes(tensor) // alignment) * alignment
    writer.pad(alignment)


def _string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _text(value: str) -> bytes:
    return struct.pack("<I", STRING) + _string(value)


class _Writer:
    """Writes a file and its digest."""

    def __init__(self, stream: BinaryIO, total: int, progress: Callable[[int, int], None]) -> None:
        self._stream = stream
        self._total = total
        self._progress = progress
        self._copied = self._at = 0
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._stream.write(content)
        self.digest.update(content)
        self._at += len(content)

    def pad(self, alignment: int) -> None:
        self.write(bytes(-self._at % alignment))

    def copy(self, source: BinaryIO, count: int, path: Path) -> None:
        while count:
            block = source.read(min(count, _BLOCK))
            if not block:
                raise HubError(f"{path} changed while it was read; wait until it is complete and try again")
            self.write(block)
            count -= len(block)
            self._copied += len(block)
            self._progress(self._copied, self._total)
