"""Batches of Arrow in, the same with vectors out: a function that Spark, Dask and others map over partitions."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, get_args
from urllib.parse import urlsplit

import msgspec

from edgeembed.bulk.arrow_columns import column_of, column_type
from edgeembed.bulk.computed import FIELDS
from edgeembed.bulk.embedders import DaemonEmbedder, EmbedderInfo, EmbedOptions
from edgeembed.bulk.embedding import EmbeddedShard, embed_shard
from edgeembed.bulk.inputs import Cursor, Step
from edgeembed.bulk.records import MAX_BYTES, TOO_LONG, Position, Read, Record, Reject
from edgeembed.bulk.shards import SHARD_ROWS, Dtype, JobRules, Shard, cut
from edgeembed.bulk.shared_engine import SharedEngine, engine_connection
from edgeembed.bulk.tables import import_pyarrow, is_text
from edgeembed.client import connected
from edgeembed.common.loop_thread import LoopThread, wait_for
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.embedder.base import resolve_given
from edgeembed.engine.interface import DENSE, OUTPUTS, Output, Side
from edgeembed.engine.outputs import ordered
from edgeembed.errors import ConfigError, RequestError
from edgeembed.hub.install import ensure_installed, find_here, parse_spec
from edgeembed.inference.requests import LongText
from edgeembed.models.prompts import InputType

Errors = Literal["column", "raise"]
ERROR = "error"
"""The column with the reason why a row has no vector."""
SLICE_ROWS = 1024
"""Rows whose texts are taken out of Arrow at a time."""
SHARDS_AT_ONCE = 2
"""The next one is read while one is computed."""


class BatchOptions(TypedDict, total=False):
    """The options of `embed_batches`, which describes them."""

    model: str | None
    column: str | None
    input_type: InputType | None
    instruction: str | None
    dimensions: int | None
    outputs: Iterable[Output]
    dtype: Dtype
    truncate: Side | None
    long_text: LongText | None
    errors: Errors
    fixed_size: bool
    daemon: str | None
    settings: Mapping[str, Any]


def embed_batches(batches: Iterable[Any], **options: Unpack[BatchOptions]) -> Iterator[Any]:
    """Yield batches of Arrow (`pyarrow.RecordBatch`) with all their columns, and what is computed of a column of texts.

    The rows stay in their order; a batch may be divided. Batches without rows are left out. Nothing is read before the
    first batch is asked for, and then little more than 16,384 rows ahead.

    All calls on a machine that ask for the same model and settings share one engine, whichever process they are in. The
    first one starts it, and it ends by itself when it has not been used for five minutes.

    Args:
        batches: Of a partition, such as Spark's `mapInArrow` passes them; or a `pyarrow.RecordBatchReader`.
        model: A name, a GGUF file, or `hf:…`; None for the configured one, or the default one of `daemon`.
        column: Of texts: strings of any of Arrow's types. None for `text`, or the only one of texts.
        input_type: "query" or "document" adds the model's prompt; so do "classification", "clustering", "similarity".
        instruction: The task, for models whose prompt has one.
        dimensions: Keep the first numbers of each dense vector, scaled to length 1 again.
        outputs: Some of "dense", "multi", "sparse", "tokens", which become the columns `vector`, `multi_vector`, `sparse`
            and `token_vectors`.
        dtype: "float32", "float16", "int8" or "binary": signs, eight in a byte.
        truncate: "end" or "start" cuts texts that are too long.
        long_text: "mean" gives those the mean of their windows.
        errors: "column" for a column `error`, which holds why a row has no vector, or null; "raise" for an exception.
        fixed_size: Whether vectors are lists of a fixed size, as DuckDB's arrays and LanceDB want them. Spark takes no such
            lists, and pyarrow writes none that are null to Parquet.
        daemon: A daemon that runs, in place of the shared engine: http://HOST:PORT or the path of its Unix socket.
        settings: Any of docs/configuration.md, such as `{"threads": 4}`. They override the environment and config.toml.

    Raises:
        ConfigError: An option is wrong, or does not fit the batches or the model.
        RequestError: A row cannot be embedded, with `errors="raise"`.
        EdgeEmbedError: The model cannot be found, loaded or run.
    """
    return _embedded(iter(batches), _plan_of(**options))


def embedded_schema(schema: Any, **options: Unpack[BatchOptions]) -> Any:
    """Return the schema (`pyarrow.Schema`) of what `embed_batches` yields for batches of a schema and these options.

    The engine is not started: how long vectors are is known from the catalogue, or from the model's file, which is
    downloaded if it is not installed. A daemon is asked.

    Raises ConfigError, EdgeEmbedError.
    """
    plan = _plan_of(**options)
    return plan.schema(schema, _widths_of(plan))


@dataclass(frozen=True)
class _Plan:
    """Options that were checked. resolved: with the model of the shared engine, or the address of the daemon."""

    wanted: EmbedOptions
    resolved: Resolved
    column: str | None
    dtype: Dtype
    errors: Errors
    fixed_size: bool
    daemon: bool

    def column_of_texts(self, schema: Any) -> str:
        """Return the name of the column of texts. Raises ConfigError."""
        texts = [each.name for each in schema if is_text(import_pyarrow(), each.type)]
        default = ["text"] if "text" in texts else texts
        found = default if self.column is None else [self.column]
        if len(found) == 1 and texts.count(found[0]) == schema.names.count(found[0]) == 1:
            return found[0]
        has = ", ".join(f"{each.name} ({each.type})" for each in schema)
        raise ConfigError(f"name one column of texts with column=; the batches have: {has}")

    def schema(self, schema: Any, widths: Mapping[Output, int]) -> Any:
        """Return the schema of the result for batches of a schema. Raises ConfigError."""
        pa = import_pyarrow()
        self.column_of_texts(schema)
        for output in self.wanted.outputs:
            type_ = column_type(output, widths.get(output, 0), self.dtype)
            schema = schema.append(pa.field(FIELDS[output], type_ if self.fixed_size else _without_sizes(type_)))
        if self.errors == "column":
            schema = schema.append(pa.field(ERROR, pa.string()))
        if twice := [name for name in schema.names if schema.names.count(name) > 1]:
            raise ConfigError(f"the batches have a column {twice[0]!r} of their own; rename it")
        return schema


def _plan_of(
    *,
    model: str | None = None,
    column: str | None = None,
    outputs: Iterable[Output] = DENSE,
    dtype: Dtype = "float32",
    errors: Errors = "column",
    **more: Any,
) -> _Plan:
    """Return the options, checked. Raises ConfigError."""
    fixed_size, daemon = more.pop("fixed_size", False), more.pop("daemon", None)
    settings = dict(more.pop("settings", {}))
    wanted: tuple[Any, ...] = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    words: list[tuple[str, object, Sequence[object]]] = [(name, more.get(name), (None, *kinds)) for name, kinds in _WORDS]
    words += [("outputs", output, OUTPUTS) for output in wanted or ("",)]
    words += [("dtype", dtype, get_args(Dtype)), ("errors", errors, get_args(Errors))]
    for name, value, expected in words:
        if value not in expected:
            raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(str(each) for each in expected if each)}")
    found = EmbedOptions(model if daemon else None, outputs=ordered(wanted))._replace(**more)
    if found.dimensions is not None and "dense" not in found.outputs:
        raise ConfigError("dimensions is for dense vectors, which outputs leaves out")
    if dtype in ("int8", "binary") and "tokens" in found.outputs:
        raise ConfigError(f"dtype {dtype!r} is for vectors of length 1, which token vectors are not; use float16")
    if found.long_text == "mean" and (found.outputs != DENSE or found.truncate is not None):
        raise ConfigError("long_text='mean' is for dense vectors alone, and without truncate")
    resolved = resolve_given(None if daemon else model, settings)
    if daemon is not None:
        resolved = replace(resolved, settings=_at(daemon, resolved.settings))
    return _Plan(found, resolved, column, dtype, errors, fixed_size, daemon is not None)


_WORDS: Sequence[tuple[str, Sequence[object]]] = (
    ("input_type", get_args(InputType)),
    ("truncate", get_args(Side)),
    ("long_text", ("none", "mean")),
)


def _at(daemon: str, settings: Settings) -> Settings:
    """Return settings that lead to a daemon. Raises ConfigError."""
    if "://" not in daemon:
        return msgspec.structs.replace(settings, uds=daemon, certfile=None)
    parts = urlsplit(daemon)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or not host or parts.path.strip("/"):
        raise ConfigError(f"daemon is {daemon!r}; expected http://HOST:PORT or the path of a Unix socket")
    return msgspec.structs.replace(settings, host=host, port=port, uds=None, certfile=None)


def _without_sizes(type_: Any) -> Any:
    """Return a type of Arrow with lists of any size in place of those of a fixed one."""
    pa = import_pyarrow()
    if pa.types.is_fixed_size_list(type_) or (pa.types.is_list(type_) and not pa.types.is_map(type_)):
        return pa.list_(_without_sizes(type_.value_type))
    return type_


# --- how long vectors are ---------------------------------------------------------------------------------------------


def _widths_of(plan: _Plan) -> dict[Output, int]:
    """Return the numbers in a row of each output that has vectors. Raises EdgeEmbedError."""
    settings = plan.resolved.settings
    if not plan.daemon:
        if settings.model is None:
            raise ConfigError('no model is named; give one, as in model="all-minilm-l6-v2"')
        paths = plan.resolved.paths
        model: Any = find_here(settings.model, paths=paths, report=_silent)
        model = model or parse_spec(settings.model, paths).entry
        model = model or ensure_installed(settings.model, paths=paths, settings=settings, report=_silent)
        if model.dimensions is not None:
            multi = model.token_dimensions or model.dimensions
            return {"dense": plan.wanted.dimensions or model.dimensions, "multi": multi, "tokens": model.dimensions}
    with _Engine(plan) as engine:
        return engine.info.widths


def _silent(_line: str) -> None:
    pass


# --- computing --------------------------------------------------------------------------------------------------------


class _Engine:
    """An embedder, asked from a thread that has no event loop. It is opened by `with`."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._resources = contextlib.AsyncExitStack()
        self._loop = LoopThread("edgeembed-batches")

    def __enter__(self) -> _Engine:
        try:
            self._embedder, self._limit = self._loop.run(self._open())
        except BaseException:
            self.__exit__()
            raise
        self.info: EmbedderInfo = self._embedder.info
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._loop.run(self._resources.aclose())
        finally:
            self._loop.close()

    def submit(self, shard: Shard) -> Future[EmbeddedShard]:
        """Start to embed the texts of a shard."""
        return self._loop.submit(embed_shard(shard, self._embedder, self._limit))

    async def _open(self) -> tuple[DaemonEmbedder, asyncio.Semaphore]:
        plan = self._plan
        if plan.daemon:
            connection = await self._resources.enter_async_context(connected(plan.resolved.settings))
            if not await connection.is_running():
                raise ConfigError(f"no edgeembed answers at {connection.url}")
        else:
            engine = SharedEngine(plan.resolved)
            connection = await self._resources.enter_async_context(engine_connection(engine))
        embedder = DaemonEmbedder(connection, plan.wanted)
        await embedder.start()
        return embedder, asyncio.Semaphore(embedder.info.max_requests)


class _Part(NamedTuple):
    """Rows of a batch that are in one shard. first: the number of the first one, in the partition."""

    batch: Any
    first: int


@dataclass
class _Rows:
    """The rows of a partition as records for shards, and the batches that they are in."""

    batches: Iterator[Any]
    plan: _Plan
    read: int = 0
    """Rows that have gone into shards."""
    parts: deque[_Part] = field(default_factory=deque)
    """Batches with rows that have not gone into shards, in order."""

    def steps(self) -> Iterator[Step]:
        """Yield all rows."""
        number = 0
        for batch in self.batches:
            if not batch.num_rows:
                continue
            name = self.plan.column_of_texts(batch.schema)
            texts = batch.column(batch.schema.get_field_index(name))
            self.parts.append(_Part(batch, number))
            for start in range(0, batch.num_rows, SLICE_ROWS):
                for text in _as_texts(texts.slice(start, SLICE_ROWS)):
                    yield Step("", _read(text, number), _CURSOR)
                    number += 1

    def take(self, rows: int) -> list[_Part]:
        """Return the parts with the next rows, all of which were read."""
        found: list[_Part] = []
        end = self.read + rows
        while self.read < end:
            batch, first = self.parts[0]
            start, stop = self.read - first, min(end - first, batch.num_rows)
            found.append(_Part(batch.slice(start, stop - start), self.read))
            self.read = first + stop
            if stop == batch.num_rows:
                self.parts.popleft()
        return found


_CURSOR = Cursor()
_POSITION = Position()


def _as_texts(texts: Any) -> list[str | None]:
    """Return the strings of an array; None for null, and for bytes that are no text."""
    try:
        found: list[str | None] = texts.to_pylist()
    except UnicodeDecodeError:
        found = []
        for text in texts:
            try:
                found.append(text.as_py())
            except UnicodeDecodeError:
                found.append(None)
    return found


def _read(text: str | None, number: int) -> Read:
    """Return a row as a record, or why it cannot be used. number: in the partition, from 0."""
    place = f"row {number}"
    if text is None:
        return Reject(place, "no text", _POSITION, number)
    if len(text) > MAX_BYTES:
        return Reject(place, TOO_LONG, _POSITION, number)
    return Record(number, text, number, _POSITION, place)


def _embedded(batches: Iterator[Any], plan: _Plan) -> Iterator[Any]:
    """Yield the batches with what is computed. Shards and requests are divided as those of a file with these rows."""
    rows = _Rows(batches, plan)
    steps = rows.steps()
    rules = JobRules(format="arrow", outputs=plan.wanted.outputs, shard_rows=SHARD_ROWS)
    started: deque[tuple[list[_Part], Future[EmbeddedShard]]] = deque()
    with contextlib.ExitStack() as stack:
        engine: _Engine | None = None
        try:
            while (shard := cut(steps, 0, _CURSOR, rules)) is not None or started:
                if shard is not None:
                    engine = engine or stack.enter_context(_Engine(plan))
                    parts = rows.take(len(shard.rows) + len(shard.refused))
                    started.append((parts, engine.submit(shard)))
                if engine is not None and (shard is None or len(started) >= SHARDS_AT_ONCE):
                    parts, future = started.popleft()
                    yield from _with_columns(parts, wait_for(future), plan, engine.info.widths)
        finally:
            for _, future in started:
                future.cancel()


def _with_columns(
    parts: Sequence[_Part], embedded: EmbeddedShard, plan: _Plan, widths: Mapping[Output, int]
) -> Iterator[Any]:
    """Yield the rows of a shard with what was computed. Raises RequestError for a row without a vector, if wanted."""
    pa = import_pyarrow()
    refused = {int(each.id or 0): each.reason for each in embedded.refused}
    if refused and plan.errors == "raise":
        first = min(refused)
        raise RequestError(f"row {first} of the partition: {refused[first]}")
    begin = parts[0].first
    count = sum(part.batch.num_rows for part in parts)
    indices = None
    if refused:
        places = {int(row.id) - begin: index for index, row in enumerate(embedded.rows)}
        indices = pa.array([places.get(row) for row in range(count)], pa.int64())
    schema = plan.schema(parts[0].batch.schema, widths)
    columns = []
    for output in plan.wanted.outputs:
        column = column_of(output, embedded.computed, plan.dtype, column_type(output, widths.get(output, 0), plan.dtype))
        if not plan.fixed_size:
            column = column.cast(_without_sizes(column.type))
        columns.append(column if indices is None else column.take(indices))
    if plan.errors == "column":
        columns.append(pa.array([refused.get(row) for row in range(begin, begin + count)], pa.string()))
    for batch, first in parts:
        own = [column.slice(first - begin, batch.num_rows) for column in columns]
        yield pa.RecordBatch.from_arrays([*batch.columns, *own], schema=schema)


__all__ = ["BatchOptions", "embed_batches", "embedded_schema"]
