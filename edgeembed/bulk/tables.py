"""Reads Parquet inputs, batch by batch. Positions are rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from edgeembed.bulk.lines import choose_column
from edgeembed.bulk.place_status import etag_of
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import MAX_BYTES, TOO_LONG, Position, Read, Record, Reject, fingerprint_of, id_of, size_of
from edgeembed.common.installation import find_installation
from edgeembed.errors import ConfigError

BATCH_ROWS = 1024
LOCAL_BUFFER_BYTES = 2**20
REMOTE_BUFFER_BYTES = 8 * 2**20
"""What one request fetches, of each column."""


def import_pyarrow() -> ModuleType:
    """Import pyarrow, which is an extra. Raises ConfigError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"Parquet and Arrow files need pyarrow: {find_installation().add('bulk')}") from error
    module: ModuleType = pyarrow
    return module


class ParquetRows:
    """The rows of a Parquet file: a column of strings and optionally one of ids."""

    def __init__(
        self,
        place: Place,
        column: str | None,
        id_column: str | None,
        keep: Sequence[str] = (),
        *,
        end: int | None = None,
    ) -> None:
        """keep: columns that pass to the output, as Arrow scalars. end: stop before this row.

        Of a row group in which reading begins or ends, what is before the first row is read, too: its pages have no index
        that pyarrow uses. What follows the last row is not.
        """
        self.place = place
        self._end = end
        self._column = column
        self._id_column = id_column
        self._keep = keep
        self.etag = ""
        """Of the file that was opened last; empty if its store has none, or was not asked."""

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def size_bytes(self) -> int | None:
        return size_of(self.place)

    def fingerprint(self) -> str:
        return fingerprint_of(self.place)

    def kept_types(self) -> dict[str, Any]:
        """Return the Arrow types of the columns that pass to the output. Raises ConfigError."""
        if not self._keep:
            return {}
        with self.opened() as file:
            schema = file.schema_arrow
            return {name: schema.field(choose_column(name, list(schema.names), self.name)).type for name in self._keep}

    def read(self, start: Position) -> Iterator[Read]:
        size = self.size_bytes or 0
        with self.opened() as file:
            text_name, names = self.columns(file)
            rows = max(file.metadata.num_rows, 1)
            before = 0
            for group in range(file.metadata.num_row_groups):
                group_rows = file.metadata.row_group(group).num_rows
                number = before
                before += group_rows
                if before <= start.offset:
                    continue
                if self._end is not None and number >= self._end:
                    return
                batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names, use_threads=False)
                for batch in batches:
                    first, number = number, number + batch.num_rows
                    if number <= start.offset:
                        continue
                    texts = batch.column(text_name).to_pylist()
                    ids = batch.column(self._id_column).to_pylist() if self._id_column else [None] * len(texts)
                    for row, text, id_ in zip(range(first, number), texts, ids, strict=True):
                        if row == self._end:
                            return
                        if row >= start.offset:
                            after = Position(row + 1, row + 1, done=size * (row + 1) // rows)
                            kept = {name: batch.column(name)[row - first] for name in self._keep}
                            yield self._read(text, id_, row, after, kept)

    def _read(self, text: Any, value: Any, row: int, after: Position, kept: Mapping[str, Any]) -> Read:
        place, id_ = f"row {row}", id_of(value)
        if self._id_column is not None and id_ is None:
            return Reject(place, f"the column {self._id_column!r} is neither a string nor an integer", after)
        if not isinstance(text, str):
            return Reject(place, "no text", after, id_)
        if len(text) > MAX_BYTES:
            return Reject(place, TOO_LONG, after, id_)
        return Record(id_, text, row, after, place, kept)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the file; its footer is read at once. Raises ConfigError for one that is no Parquet; PlaceError."""
        pa = import_pyarrow()
        # A buffer instead of whole column chunks: a row group may be larger than memory.
        if not self.place.is_remote:
            try:
                opened = pa.parquet.ParquetFile(self.place.path, buffer_size=LOCAL_BUFFER_BYTES, pre_buffer=False)
            except (pa.ArrowException, OSError) as error:
                raise ConfigError(f"cannot read {self.name} as Parquet: {error}") from error
            with opened as file:
                yield file
            return
        with self.place.reading(), contextlib.closing(self.place.open_arrow()) as source:
            self.etag = etag_of(source) if self.place.scheme == "s3" else ""
            try:
                opened = pa.parquet.ParquetFile(source, buffer_size=REMOTE_BUFFER_BYTES, pre_buffer=False)
            except pa.ArrowInvalid as error:
                raise ConfigError(f"cannot read {self.name} as Parquet: {error}") from error
            yield opened

    def columns(self, file: Any) -> tuple[str, list[str]]:
        """Return the name of the texts' column, and the columns to be read. Raises ConfigError."""
        pyarrow = import_pyarrow()
        schema = file.schema_arrow
        texts = [field.name for field in schema if is_text(pyarrow, field.type)]
        text_name = choose_column(self._column, texts if self._column is None else list(schema.names), self.name)
        if text_name not in texts:
            raise ConfigError(
                f"the column {text_name!r} of {self.name} holds {schema.field(text_name).type}; expected texts"
            )
        names = [text_name]
        if self._id_column is not None:
            names.append(choose_column(self._id_column, list(schema.names), self.name))
        names += [choose_column(name, list(schema.names), self.name) for name in self._keep]
        return text_name, list(dict.fromkeys(names))


def is_text(pyarrow: ModuleType, type_: Any) -> bool:
    """Return whether a type of Arrow is one of strings."""
    types = pyarrow.types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))
