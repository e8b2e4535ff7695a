"""Writes shards, and one file of all shards: Parquet, Arrow IPC, JSON Lines, NPY (NumPy Enhancement Proposal 1)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from edgeembed.bulk.arrow_columns import column_of, column_type, stored
from edgeembed.bulk.computed import FIELDS, Computed, fields_of
from edgeembed.bulk.kept import arrow_type, plain
from edgeembed.bulk.records import Id
from edgeembed.bulk.shards import Dtype, JobManifest
from edgeembed.bulk.tables import import_pyarrow
from edgeembed.common.files import replacing
from edgeembed.inference.postprocess import Matrix

OutputFormat = Literal["parquet", "arrow", "jsonl", "npy"]
SUFFIXES: dict[str, OutputFormat] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
}
IDS_SUFFIX = ".ids.jsonl"
"""The file beside an NPY file, which holds only numbers, with the id of each row on a line."""


class ShardRows(NamedTuple):
    """Content of a shard. texts: None when they are not stored. kept: columns of the inputs, with a value for each row."""

    ids: Sequence[Id]
    computed: Computed
    texts: Sequence[str] | None
    kept: Mapping[str, Sequence[Any]] = MappingProxyType({})


def write_shard(path: Path, rows: ShardRows, manifest: JobManifest) -> None:
    """Write a shard atomically. Raises OSError."""
    match manifest.rules.format:
        case "parquet" | "arrow" as format_:
            with replacing(path, sync=True) as staged, _table_writer(staged, format_, manifest) as writer:
                writer.write_table(_table(rows, manifest))
        case "jsonl":
            with replacing(path, sync=True) as staged:
                staged.write_bytes(b"".join(_json_lines(rows, manifest)))
        case "npy":
            with replacing(ids_path(path), sync=True) as staged:
                staged.write_bytes(b"".join(orjson.dumps(id_) + b"\n" for id_ in rows.ids))
            with replacing(path, sync=True) as staged, staged.open("wb") as file:
                np.save(file, stored(rows.computed.dense, manifest.rules.dtype))


def shard_bytes(rows: ShardRows, manifest: JobManifest, metadata: Mapping[str, bytes]) -> memoryview:
    """Return the Parquet file of a shard. metadata: what its footer holds besides the schema."""
    stream = import_pyarrow().BufferOutputStream()
    with _table_writer(stream, "parquet", manifest) as writer:
        writer.write_table(_table(rows, manifest))
        writer.add_key_value_metadata(dict(metadata))
    return memoryview(stream.getvalue())


def join_tables(shards: Iterable[Any], target: Any, manifest: JobManifest) -> None:
    """Write one Parquet file of those of shards, open files of Arrow, in order. target: as in `_table_writer`."""
    parquet = import_pyarrow().parquet
    with _table_writer(target, "parquet", manifest) as writer:
        for shard in shards:
            with shard, parquet.ParquetFile(shard) as file:
                writer.write_table(file.read())


def assemble(shards: Sequence[Path], rows: int, out: Path, manifest: JobManifest) -> None:
    """Write one file of all shards, in order and atomically. rows: their total. Raises OSError."""
    match manifest.rules.format:
        case "parquet" | "arrow" as format_:
            with replacing(out, sync=True) as staged, _table_writer(staged, format_, manifest) as writer:
                for shard in shards:
                    writer.write_table(_read_table(shard, format_))
        case "jsonl":
            with replacing(out, sync=True) as staged:
                join(shards, staged)
        case "npy":
            with replacing(ids_path(out), sync=True) as staged:
                join([ids_path(shard) for shard in shards], staged)
            with replacing(out, sync=True) as staged, staged.open("wb") as file:
                _join_arrays(shards, rows, manifest, file)


def join(files: Iterable[Path], out: Path) -> None:
    """Concatenate files. Raises OSError."""
    with out.open("wb") as whole:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, whole, 2**20)


def ids_path(path: Path) -> Path:
    """Return the path of the file with the ids beside an NPY file."""
    return path.with_name(path.stem + IDS_SUFFIX)


def _join_arrays(shards: Sequence[Path], rows: int, manifest: JobManifest, file: Any) -> None:
    empty = stored(np.zeros((0, manifest.dimensions), np.float32), manifest.rules.dtype)
    header = np.lib.format.header_data_from_array_1_0(empty) | {"shape": (rows, empty.shape[1])}
    np.lib.format.write_array_header_1_0(file, header)
    for shard in shards:
        file.write(np.load(shard, mmap_mode="r").tobytes())


def _json_lines(rows: ShardRows, manifest: JobManifest) -> Iterator[bytes]:
    dtype = manifest.rules.dtype
    dense = _shown(rows.computed.dense, dtype) if manifest.dimensions else None
    others = {
        output: matrices if output == "sparse" else [_shown(matrix, dtype) for matrix in matrices]
        for output, matrices in rows.computed.others.items()
    }
    for index, id_ in enumerate(rows.ids):
        line: dict[str, Any] = {"id": id_} | {name: plain(values[index]) for name, values in rows.kept.items()}
        if rows.texts is not None:
            line["text"] = rows.texts[index]
        if dense is not None:
            line[FIELDS["dense"]] = dense[index]
        line |= fields_of(Computed(rows.computed.dense, others), index)
        yield orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _shown(vectors: Matrix, dtype: Dtype) -> npt.NDArray[Any]:
    """Return vectors as they are stored, float16 as float32: orjson writes only that in the shortest form."""
    numbers = stored(vectors, dtype)
    return numbers.astype(np.float32) if numbers.dtype == np.float16 else numbers


def _schema(manifest: JobManifest) -> Any:
    pa = import_pyarrow()
    rules = manifest.rules
    fields = [("id", pa.int64() if manifest.ids == "int" else pa.string())]
    fields += [(name, arrow_type(type_)) for name, type_ in manifest.kept.items()]
    if rules.with_text:
        fields.append(("text", pa.string()))
    widths = {**manifest.widths, "dense": manifest.dimensions}
    fields += [(FIELDS[output], column_type(output, widths.get(output, 0), rules.dtype)) for output in rules.outputs]
    metadata = {
        "edgeembed.model": manifest.model,
        "edgeembed.model_type": manifest.type,
        "edgeembed.model_sha256": manifest.digest,
        "edgeembed.outputs": ",".join(rules.outputs),
        "edgeembed.dimensions": str(manifest.dimensions),
        "edgeembed.dtype": rules.dtype,
        "edgeembed.input_type": rules.input_type or "",
        "edgeembed.instruction": rules.instruction or "",
    }
    return pa.schema(fields, metadata=metadata)


def _table(rows: ShardRows, manifest: JobManifest) -> Any:
    pa = import_pyarrow()
    schema, rules = _schema(manifest), manifest.rules
    columns = [pa.array(rows.ids, type=schema.field("id").type)]
    columns += [pa.array(rows.kept[name], type=schema.field(name).type) for name in manifest.kept]
    if rows.texts is not None:
        columns.append(pa.array(rows.texts, type=pa.string()))
    columns += [column_of(output, rows.computed, rules.dtype, schema.field(FIELDS[output]).type) for output in rules.outputs]
    return pa.Table.from_arrays(columns, schema=schema)


def _table_writer(target: Any, format_: str, manifest: JobManifest) -> Any:
    """Return a writer. target: a path, or an output stream of Arrow."""
    pa = import_pyarrow()
    schema = _schema(manifest)
    target = str(target) if isinstance(target, Path) else target
    if format_ == "arrow":
        return pa.ipc.new_file(target, schema)

    # Floats have no pattern: dictionaries and compression would cost time and save only a few per cent. Parquet stores small
    # integers in 32 bits, but their places in a dictionary of the 256 there are in eight.
    return pa.parquet.ParquetWriter(
        target,
        schema,
        use_dictionary=[*manifest.kept, *(_numbers(manifest) if manifest.rules.dtype in ("int8", "binary") else ())],
        compression={"id": "zstd", "text": "zstd", **dict.fromkeys(manifest.kept, "zstd")},
        write_statistics=["id", *manifest.kept],
    )


def _numbers(manifest: JobManifest) -> list[str]:
    """Return the paths of the columns of vectors in a Parquet file."""
    vectors = [output for output in manifest.rules.outputs if output != "sparse"]
    return [FIELDS[output] + ".list.element" * (1 if output == "dense" else 2) for output in vectors]


def _read_table(path: Path, format_: str) -> Any:
    pa = import_pyarrow()
    if format_ == "arrow":
        with pa.ipc.open_file(str(path)) as reader:
            return reader.read_all()

    with pa.parquet.ParquetFile(str(path)) as file:
        return file.read()


__all__ = [
    "IDS_SUFFIX",
    "SUFFIXES",
    "OutputFormat",
    "ShardRows",
    "assemble",
    "ids_path",
    "join",
    "join_tables",
    "shard_bytes",
    "stored",
    "write_shard",
]
