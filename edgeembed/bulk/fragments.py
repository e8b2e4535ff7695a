"""Fragments: the parts of the inputs that are read by themselves, on any machine, and how the inputs are cut into them.

Planning reads metadata alone: lists of files, the footers of Parquet files, and the first bytes of files of lines.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from edgeembed.bulk.chunked_rows import ChunkedRows
from edgeembed.bulk.documents import DOCUMENT_COLUMNS
from edgeembed.bulk.folders import Folder, is_named_document
from edgeembed.bulk.formats import Columns, InputFormat, checked_format, require_no_columns, source_of
from edgeembed.bulk.inputs import Cursor, Step, checked_records, require_files
from edgeembed.bulk.kept import arrow_name
from edgeembed.bulk.lines import ByteRange
from edgeembed.bulk.listing import list_folder, partition_values, split_columns
from edgeembed.bulk.place_status import PlaceStatus
from edgeembed.bulk.places import Place, PlaceFile
from edgeembed.bulk.records import Position, Read, Record, Source
from edgeembed.bulk.tables import ParquetRows
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker

FRAGMENT_BYTES = 32 * 2**20
"""Of a file of lines, and about the most of several row groups that are one fragment."""
FRAGMENT_ROWS = 2**16
"""Row groups are one fragment together up to so many rows, and larger ones are divided."""
FRAGMENT_FILES = 128
"""Files of a folder are one fragment together up to so many; text files also up to FRAGMENT_BYTES, others JOINED_BYTES."""
JOINED_BYTES = 2**20
JOINED_ROWS = 2**13
"""About a full shard. With more, a folder of files that are not quite as small would keep fewer workers busy."""
PLANNING_THREADS = 16
"""How many files are asked for their metadata at a time; each waits for its store."""


class FolderFile(NamedTuple):
    """One of several files of a folder that are a fragment. relative: its path there. version: as of a fragment."""

    relative: str
    size: int
    version: str


class Fragment(msgspec.Struct, frozen=True):
    """A part of one input. Its place may hold secrets; `name` and `relative` never do.

    input: which of the inputs. index: of the fragment among those of its input, in order. name: of the file, for people.
    relative: of the file, in its input. version: of the file, when it was planned. start, end: the first record, and the
    offset before which the last one begins; None for the end of the file. bytes: of the file that it stands for. rows: None
    if unknown. prefix: in front of ids that are numbers or names. partition_types: of columns that the file's path holds.
    files: not empty for several files, whose folder is the place. chunks: texts are cut, also without --chunk: those of a
    folder of text files. documents: there are documents among the inputs.
    """

    input: int
    index: int
    place: Place
    name: str
    relative: str
    version: str
    format: InputFormat
    start: Position
    end: int | None
    bytes: int
    rows: int | None = None
    prefix: str = ""
    partition_types: dict[str, str] = {}
    files: tuple[FolderFile, ...] = ()
    chunks: bool = False
    documents: bool = False

    def alone(self, file: FolderFile) -> Fragment:
        """Return one of the files of rows as a fragment of its own."""
        place = self.place.child(file.relative)
        return msgspec.structs.replace(
            self,
            place=place,
            name=place.name,
            relative=file.relative,
            version=file.version,
            bytes=file.size,
            rows=None,
            prefix=f"{place.name if self.prefix else file.relative}:",
            files=(),
        )


class _File(NamedTuple):
    """A file of the inputs. format_: None if its content decides. folder: that the user named; None for the file itself."""

    input: int
    file: PlaceFile
    format_: InputFormat | None
    folder: Place | None
    partitions: Mapping[str, str] = {}


def plan(names: Sequence[str], format_: InputFormat | None, columns: Columns) -> list[Fragment]:
    """Return the fragments of inputs, in their order. names: local paths and URIs, of files and folders.

    Raises ConfigError for mistakes that show in the metadata; PlaceError, OSError.
    """
    if "-" in names:
        raise ConfigError("standard input cannot be divided among workers; write it to a file first")
    require_files(names)
    files = [file for index, name in enumerate(names) for file in _files_of(index, Place.of(name), format_, columns)]
    with ThreadPoolExecutor(PLANNING_THREADS) as threads:
        parts = list(threads.map(lambda file: [file] if isinstance(file, Fragment) else _parts_of(file, columns), files))
    documents = any(part.documents or part.format == "document" for found in parts for part in found)
    for index in range(len(names)):
        if first := next((part[0] for part in parts if part and part[0].input == index), None):
            _check_first_record(first, columns)
    fragments: list[Fragment] = []
    for part in _joined(files, parts):
        index = fragments[-1].index + 1 if fragments and fragments[-1].input == part.input else 0
        shown = part.name if len(names) > 1 else "" if part.files else part.relative
        prefix = f"{shown}:" if shown and len(files) > 1 else ""
        fragments.append(msgspec.structs.replace(part, index=index, prefix=prefix, documents=documents))
    return fragments


def read_fragment(
    fragment: Fragment, columns: Columns, chunker: Chunker | None, start: Position | None = None
) -> Iterator[Step]:
    """Yield the records of a fragment, from a position in it on, with ids. chunker: cuts the rows; None leaves them whole.

    It also cuts the text files of a folder. A row without an id gets its number: of the row in a Parquet file, a CSV file or
    a JSON array, else the offset of its line in bytes. The cursors count the bytes of the fragment alone.

    Raises ConfigError if the file has changed since it was planned, and as the readers do; PlaceError, OSError.
    """
    at = fragment.start if start is None else start
    if fragment.files and not fragment.chunks:
        yield from _read_files(fragment, columns, chunker, at)
        return
    if not fragment.files:
        _require_same(fragment.place, fragment.version)
    behind = fragment.start.done
    for read in _records(fragment, columns, chunker, at):
        done = min(max(read.after.done - behind, 0), fragment.bytes)
        yield Step(fragment.name, read, Cursor(fragment.input, read.after, done))
    if not fragment.files:
        _require_same(fragment.place, fragment.version)  # nor while it was read


def kept_types(fragment: Fragment, columns: Columns) -> dict[str, str]:
    """Return the columns of the output that a fragment is sure to fill, with the names of their types.

    Raises ConfigError for a column that it lacks; PlaceError, OSError.
    """
    of_documents = dict(DOCUMENT_COLUMNS) if fragment.documents else {}
    if fragment.chunks:
        return of_documents
    first = fragment.alone(fragment.files[0]) if fragment.files else fragment
    found = _source(first, columns).kept_types()
    types = {name: type_ if isinstance(type_, str) else arrow_name(type_) for name, type_ in found.items()}
    return types | fragment.partition_types | of_documents


def _read_files(fragment: Fragment, columns: Columns, chunker: Chunker | None, start: Position) -> Iterator[Step]:
    """Yield the records of several files of rows. The file of a position is that in which it is."""
    behind, found = 0, not start.file
    for file in fragment.files:
        here = file.relative == start.file
        found = found or here
        own = msgspec.structs.replace(start, file="", done=start.done - behind) if here else None
        for name, read, after in read_fragment(fragment.alone(file), columns, chunker, own) if found else ():
            done = behind + after.done
            place = msgspec.structs.replace(after.place, file=file.relative, done=done)
            yield Step(name, read._replace(after=place), Cursor(fragment.input, place, done))
        behind += file.size


def _records(fragment: Fragment, columns: Columns, chunker: Chunker | None, start: Position) -> Iterator[Read]:
    if fragment.chunks:
        assert chunker is not None, "text files of a folder are cut"
        listed = (
            PlaceFile(place, file.relative, _require_same(place, file.version))
            for file in fragment.files
            if (place := fragment.place.child(file.relative))
        )
        for read in Folder(fragment.place, chunker, listed).read(start):
            prefixed = isinstance(read, Record) and fragment.prefix
            yield read._replace(id=f"{fragment.prefix}{read.id}") if prefixed else read
        return
    source: Source = _WithIds(_source(fragment, columns), fragment)
    if chunker is not None:
        source = ChunkedRows(source, chunker, several=False)
    yield from checked_records(source, start)


def _source(fragment: Fragment, columns: Columns) -> Source:
    own = columns._replace(keep=[name for name in columns.keep if name not in fragment.partition_types])
    part = ByteRange(fragment.start.offset, fragment.end)
    return source_of(fragment.place, fragment.format, own, part)


class _WithIds:
    """The rows of a fragment, with ids and the columns of its path."""

    def __init__(self, source: Source, fragment: Fragment) -> None:
        self._source = source
        self._prefix = fragment.prefix
        types = fragment.partition_types
        self._partitions = partition_values(fragment.relative, types) if types else {}
        self.name = source.name
        self.size_bytes = fragment.bytes

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def kept_types(self) -> Mapping[str, Any]:
        return self._source.kept_types()

    def read(self, start: Position) -> Iterator[Read]:
        for read in self._source.read(start):
            if not isinstance(read, Record):
                yield read
                continue
            found = read
            if read.id is None:
                found = found._replace(id=f"{self._prefix}{read.number}" if self._prefix else read.number)
            yield found._replace(kept={**read.kept, **self._partitions}) if self._partitions else found


def _files_of(
    index: int, place: Place, format_: InputFormat | None, columns: Columns
) -> Sequence[_File] | Sequence[Fragment]:
    """Return the files of an input, or the fragments of a folder of text files. Raises ConfigError, PlaceError, OSError."""
    status = place.require()
    if status.kind == "file":
        return [_File(index, PlaceFile(place, place.file_name, status), format_, None)]
    listing = list_folder(place, format_)
    if listing.chunks:
        require_no_columns(place.name, "a folder of files", columns)
        return _groups(index, place, [file for file, _ in listing.files])
    return [_File(index, file, found, place, listing.partitions) for file, found in listing.files]


def _groups(index: int, place: Place, files: Sequence[PlaceFile]) -> list[Fragment]:
    """Return the fragments of a folder of text files."""
    found: list[Fragment] = []
    documents = any(is_named_document(file.relative) for file in files)
    group: list[FolderFile] = []
    for number, (_, relative, status) in enumerate(files, 1):
        group.append(FolderFile(relative, status.size or 0, status.versions()[0]))
        size = sum(file.size for file in group)
        if number < len(files) and len(group) < FRAGMENT_FILES and size < FRAGMENT_BYTES:
            continue
        found.append(_of_files(index, place, group, "text", chunks=True, documents=documents))
        group = []
    return found


def _joined(files: Sequence[_File | Fragment], parts: Sequence[Sequence[Fragment]]) -> Iterator[Fragment]:
    """Yield the fragments of files, those of small files of a folder of rows together. parts: the fragments of each file."""
    group: list[Fragment] = []  # whole files of one folder
    folder: Place | None = None

    def flushed() -> list[Fragment]:
        if folder is None or len(group) < 2:
            return group
        found = [FolderFile(each.relative, each.bytes, each.version) for each in group]
        return [_of_files(group[0].input, folder, found, group[0].format, partition_types=group[0].partition_types)]

    for file, found in zip(files, parts, strict=True):
        if isinstance(file, Fragment) or file.folder is None or len(found) > 1:
            yield from (*flushed(), *found)
            group = []
            continue
        for part in found:
            together = [*group, part]
            if not (
                (together[0].input, together[0].format) == (part.input, part.format)
                and len(together) <= FRAGMENT_FILES
                and sum(each.bytes for each in together) <= JOINED_BYTES
                and sum(each.rows or 0 for each in together) <= JOINED_ROWS
            ):
                yield from flushed()
                together = [part]
            group, folder = together, file.folder
    yield from flushed()


def _of_files(index: int, folder: Place, files: Sequence[FolderFile], format_: InputFormat, **more: Any) -> Fragment:
    """Return files of a folder as one fragment. index: of the input."""
    versions = repr([tuple(file) for file in files]).encode(errors="surrogateescape")
    return Fragment(
        input=index,
        index=0,
        place=folder,
        name=folder.name,
        relative=files[0].relative,
        version=hashlib.sha256(versions).hexdigest(),
        format=format_,
        start=Position(),
        end=None,
        bytes=sum(file.size for file in files),
        files=tuple(files),
        **more,
    )


def _parts_of(file: _File, columns: Columns) -> list[Fragment]:
    """Return the fragments of a file, not yet numbered."""
    place, relative, status = file.file
    large = file.format_ != "parquet" and (status.size or 0) > FRAGMENT_BYTES
    if file.folder is not None and large:
        status = place.require()  # a request more, but of a large file
    own, types = split_columns(columns, file.partitions)
    size = status.size or 0
    whole = Fragment(
        input=file.input,
        index=0,
        place=place,
        name=place.name,
        relative=relative,
        version=status.versions()[0],
        format=file.format_ or "text",
        start=Position(),
        end=None,
        bytes=size,
        partition_types=types,
    )
    format_, divisible = file.format_, False
    # Small files of a folder are not asked what they hold: that shows when they are read.
    if file.folder is None or large:
        format_, divisible = checked_format(place, file.format_)
    assert format_ is not None, "a file of a folder has the format of its name"
    whole = msgspec.structs.replace(whole, format=format_)
    if format_ == "parquet":
        return _row_groups(whole, own, status)
    if format_ in ("text", "document"):
        require_no_columns(place.name, "a document" if format_ == "document" else "lines of text", columns)
    if not divisible or not status.ranges or size <= FRAGMENT_BYTES:
        return [whole] if size or status.size is None else []
    cuts = [*range(0, size, FRAGMENT_BYTES), size]
    return [
        msgspec.structs.replace(
            whole,
            start=Position(first, done=first),
            end=following if following < size else None,
            bytes=following - first,
        )
        for first, following in itertools.pairwise(cuts)
    ]


def _require_same(place: Place, version: str) -> PlaceStatus:
    """Return what is there. Raises ConfigError if it is not what was planned; PlaceError, OSError."""
    status = place.status()
    if status is None or version not in status.versions():
        what = "is gone" if status is None else "has changed"
        raise ConfigError(f"{place.name} {what} since the job began; start again with --overwrite, or restore the file")
    return status


def _check_first_record(first: Fragment, columns: Columns) -> None:
    """Raise ConfigError for a mistake that the first record of an input shows. Only Parquet has its columns elsewhere."""
    if not first.files and first.format not in ("parquet", "document"):
        next(checked_records(_source(first, columns), first.start), None)


def _row_groups(whole: Fragment, columns: Columns, status: PlaceStatus) -> list[Fragment]:
    """Return the fragments of a Parquet file, whose footer is read."""
    table = ParquetRows(whole.place, columns.text, columns.id, columns.keep)
    with table.opened() as file:
        table.columns(file)
        metadata = file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    whole = msgspec.structs.replace(whole, version=status._replace(etag=status.etag or table.etag).versions()[0])
    total = max(sum(counts), 1)
    cuts = [0]
    at = taken = 0
    for group, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        at += count
        taken += size
        following = group + 1
        full = following == len(counts) or (
            at - cuts[-1] + counts[following] > FRAGMENT_ROWS or taken + sizes[following] > FRAGMENT_BYTES
        )
        rows = at - cuts[-1]
        if full and rows:
            parts = -(-rows // FRAGMENT_ROWS)
            cuts += [cuts[-1] + rows * part // parts for part in range(1, parts + 1)]
            taken = 0
    found: list[Fragment] = []
    for first, end in itertools.pairwise(cuts):
        done, bytes_ = whole.bytes * first // total, whole.bytes * end // total - whole.bytes * first // total
        start = Position(first, first, done=done)
        found.append(msgspec.structs.replace(whole, start=start, end=end, bytes=bytes_, rows=end - first))
    return found
