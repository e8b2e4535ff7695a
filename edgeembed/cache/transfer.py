"""Export and import of rows as one file, to move them to another machine.

Layout: a line that names the format; frames of a little-endian 32-bit length and as many bytes of msgpack, first a header,
then one for each row; a length of zero; the SHA-256 of everything before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgeembed import __version__
from edgeembed.cache.disk import DiskItem, DiskTier
from edgeembed.cache.key import SCHEMA
from edgeembed.cache.rows import decode_row
from edgeembed.common.files import UNREADABLE_JSON, replacing
from edgeembed.engine.outputs import is_packed
from edgeembed.errors import CacheFileError

_FORMAT = b"edgeembed cache export 1\n"
_LENGTH_BYTES = 4
_MOST_FRAME_BYTES = 16 * 2**20
_AT_ONCE = 256
_CHUNK_BYTES = 2**20

OnProgress = Callable[[int, int], None]
"""Called with the number of rows done, and of all rows."""


class _Header(msgspec.Struct, frozen=True):
    schema: str
    version: str
    created: float


class _Row(msgspec.Struct, array_like=True, frozen=True):
    key: bytes
    value: bytes
    model: str
    protected: bool


_row_decoder = msgspec.msgpack.Decoder(_Row)


def export_rows(tier: DiskTier, path: Path, models: list[str] | None, on_progress: OnProgress) -> int:
    """Write the rows of some models, or of all, to a file, and return their number. The file appears when it is complete.

    Raises OSError or one of FAULTS.
    """
    total = sum(found.entries for found in tier.models() if models is None or found.model in models)
    rows = 0
    with replacing(path, private=True, sync=True) as staged, staged.open("wb") as file:
        digest = hashlib.sha256()

        def write(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        write(_FORMAT)
        write(_frame(_Header(SCHEMA.decode(), __version__, time.time())))
        for model in [None] if models is None else models:
            for item, protected in tier.rows(model):
                write(_frame(_Row(item.key, item.value, item.model, protected)))
                rows += 1
                on_progress(rows, max(rows, total))
        write(bytes(_LENGTH_BYTES))
        file.write(digest.digest())
    return rows


def import_rows(
    tier: DiskTier, path: Path, on_progress: OnProgress, dimensions: Mapping[str, Collection[int]] | None = None
) -> int:
    """Import the rows of a file and return their number. Nothing is imported from a file with a row that is not a vector.

    dimensions: that the rows of models may have, by label. Those of other models have to be as long as their first row here,
    or else in the file. Packed rows (see `edgeembed.engine.outputs`) may have any length. Raises CacheFileError with what is
    wrong, OSError, or one of FAULTS.
    """
    _check_digest(path)
    known = dict(dimensions or {})
    for model in tier.models():
        if model.model not in known and (found := _dimensions_in(item for item, _ in tier.rows(model.model))):
            known[model.model] = (found,)
    total = sum(1 for _ in _read(path, known))
    rows = _read(path, known)
    done = 0
    while batch := list(islice(rows, _AT_ONCE)):
        tier.put_many(DiskItem(row.key, row.value, row.model, "keep" if row.protected else "normal") for row in batch)
        done += len(batch)
        on_progress(done, total)
    return done


def _frame(value: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(value)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def _check_digest(path: Path) -> None:
    """Raise CacheFileError when the file is not an export, or damaged."""
    digest, size = hashlib.sha256(), path.stat().st_size - hashlib.sha256().digest_size
    with path.open("rb") as file:
        if file.read(len(_FORMAT)) != _FORMAT:
            raise CacheFileError(f"{path} is not a file of `edgeembed cache export`, or is of another version")
        file.seek(0)
        left = size
        while left > 0 and (part := file.read(min(left, _CHUNK_BYTES))):
            digest.update(part)
            left -= len(part)
        if size <= 0 or file.read() != digest.digest():
            raise CacheFileError(f"{path} is damaged: its checksum does not match")


def _dimensions_in(items: Iterable[DiskItem]) -> int | None:
    """Return how many numbers the first row has that is not packed."""
    for item in items:
        row = decode_row(item.key, item.value)
        assert row is not None  # the tier lists no others
        if not is_packed(row.vector):
            return len(row.vector)
    return None


def _read(path: Path, dimensions: dict[str, Collection[int]]) -> Iterator[_Row]:
    """Yield the rows of a file. dimensions: that rows may have, by label; the first row of another label is added.

    Raises CacheFileError for another schema, or a row that is damaged or no vector.
    """
    with path.open("rb") as file:
        file.seek(len(_FORMAT))
        try:
            header = msgspec.msgpack.decode(_next(file), type=_Header)
            if header.schema != SCHEMA.decode():
                raise CacheFileError(
                    f"{path} has rows of the schema {header.schema!r}, written by edgeembed {header.version}; this version "
                    f"reads only {SCHEMA.decode()!r}"
                )
            number = 0
            while frame := _next(file):
                row, number = _row_decoder.decode(frame), number + 1
                found = decode_row(row.key, row.value)
                if found is None:
                    raise CacheFileError(
                        f"{path}: row {number} is damaged or is not a vector: its numbers must be finite, and not all zero. "
                        "Nothing was imported"
                    )
                if is_packed(found.vector):
                    yield row
                    continue
                expected = dimensions.setdefault(row.model, (len(found.vector),))
                if expected and len(found.vector) not in expected:
                    raise CacheFileError(
                        f"{path}: row {number} has {len(found.vector)} numbers, but those of {row.model} have "
                        f"{' or '.join(map(str, expected))}. Nothing was imported"
                    )
                yield row
        except UNREADABLE_JSON as error:
            raise CacheFileError(f"{path} cannot be read: {error}") from error


def _next(file: BinaryIO) -> bytes:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > _MOST_FRAME_BYTES:
        raise CacheFileError(f"a part of {length} bytes exceeds the limit of {_MOST_FRAME_BYTES}")
    return file.read(length)
