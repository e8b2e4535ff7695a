"""Stores in Qdrant: collections on a server, or in a folder, which is the client's local mode.

A point's payload holds id, text and the columns of metadata. Its number is the id, if that is one, or else made from it. How
a store was made is in the collection's metadata, under `edgeembed`, which servers have from version 1.16 on.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgeembed.bulk.records import Id
from edgeembed.bulk.stores.interface import (
    Found,
    StoreInfo,
    StoreRows,
    Where,
    cell,
    import_extra,
    last_of_each,
    read_info,
    require_columns,
    values_of,
)
from edgeembed.bulk.stores.targets import Target
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

KEY_VARIABLE = "QDRANT_API_KEY"
_RECORD = "edgeembed"
_ROWS_AT_ONCE = 256
"""A server takes requests of at most 32 MiB."""
_NAMES = uuid.UUID("7c1f7a0e-6f0f-4a77-9d3c-0b6f7f3a9b52")
_SECONDS = 60
_IDENTIFIER = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class QdrantKind:
    """Makes, opens and removes stores."""

    def exists(self, target: Target) -> bool:
        import_extra("qdrant_client", "qdrant", "a store in Qdrant")  # also where there is no file yet
        if target.file is not None and not target.file.exists():
            return False
        with _connected(target) as client, _errors(target):
            return bool(client.collection_exists(target.table))

    def create(self, target: Target, info: StoreInfo) -> QdrantStore:
        info.require_names()
        models = _models()
        client = _connect(target)
        try:
            with _errors(target):
                client.create_collection(
                    target.table,
                    vectors_config=models.VectorParams(size=info.dimensions, distance=models.Distance.COSINE),
                    metadata={_RECORD: msgspec.to_builtins(info)},
                )
            _recorded(client, target)
        except BaseException:
            client.close()
            raise
        return QdrantStore(client, target, info)

    def open(self, target: Target) -> QdrantStore:
        if target.file is not None and not target.file.exists():
            raise ConfigError(f"no such folder: {target.place}")
        client = _connect(target)
        try:
            with _errors(target):
                if not client.collection_exists(target.table):
                    raise ConfigError(f"{target.place} has no collection {target.table}")
            return QdrantStore(client, target, _recorded(client, target))
        except BaseException:
            client.close()
            raise

    def drop(self, target: Target) -> None:
        if self.exists(target):
            self.open(target).close()
            with _connected(target) as client, _errors(target):
                client.delete_collection(target.table)


class QdrantStore:
    """A collection of Qdrant; see `edgeembed.bulk.stores.interface.Store`."""

    info: StoreInfo

    def __init__(self, client: Any, target: Target, info: StoreInfo) -> None:
        self.info = info
        self._client = client
        self._target = target

    def put(self, rows: StoreRows) -> None:
        require_columns(self.info, rows.columns, str(self._target))
        models = _models()
        keep = last_of_each(rows)
        for first in range(0, len(keep), _ROWS_AT_ONCE):
            points = []
            for place in keep[first : first + _ROWS_AT_ONCE]:
                payload: dict[str, Any] = {"id": rows.ids[place]}
                if rows.texts is not None:
                    payload["text"] = rows.texts[place]
                payload |= {name: cell(values[place]) for name, values in rows.columns.items()}
                points.append(
                    models.PointStruct(id=_number(rows.ids[place]), vector=rows.vectors[place].tolist(), payload=payload)
                )
            with _errors(self._target):
                self._client.upsert(self._target.table, points, wait=True)

    def delete(self, ids: Sequence[Id]) -> None:
        models = _models()
        with _errors(self._target):
            selector = models.PointIdsList(points=list(map(_number, ids)))
            self._client.delete(self._target.table, selector, wait=True)

    def delete_where(self, where: Where) -> None:
        models = _models()
        selector = models.FilterSelector(filter=self._filter(where))
        with _errors(self._target):
            self._client.delete(self._target.table, selector, wait=True)

    def ids(self, where: Where | None = None) -> Iterator[Id]:
        filter_, after = self._filter(where), None
        while True:
            with _errors(self._target):
                points, after = self._client.scroll(
                    self._target.table, scroll_filter=filter_, limit=1000, offset=after, with_payload=["id"]
                )
            yield from (point.payload["id"] for point in points)
            if after is None:
                return

    def count(self) -> int:
        with _errors(self._target):
            return int(self._client.count(self._target.table, exact=True).count)

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        with _errors(self._target):
            points = self._client.query_points(
                self._target.table, query=vector.tolist(), limit=k, query_filter=self._filter(where), with_payload=True
            ).points
        return [
            Found(
                point.payload["id"],
                point.score,
                point.payload.get("text"),
                {name: point.payload.get(name) for name in self.info.columns},
            )
            for point in points
        ]

    def close(self) -> None:
        self._client.close()

    def _filter(self, where: Where | None) -> Any:
        require_columns(self.info, where or {}, str(self._target))
        models = _models()
        if not where:
            return None
        return models.Filter(
            must=[
                models.Filter(should=[_equals(models, name, value) for value in values_of(wanted)])
                for name, wanted in where.items()
            ]
        )


def _equals(models: Any, name: str, value: Any) -> Any:
    """Return the condition that a column of a payload has a value."""
    key = name if set(name) <= _IDENTIFIER else f'"{name}"'
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    if isinstance(value, float):
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _number(id_: Id) -> int | str:
    """Return what a point is called: a number from 0, or a UUID."""
    return id_ if isinstance(id_, int) and 0 <= id_ < 2**64 else str(uuid.uuid5(_NAMES, f"{type(id_).__name__}:{id_}"))


def _models() -> Any:
    return import_extra("qdrant_client.models", "qdrant", "a store in Qdrant")


def _recorded(client: Any, target: Target) -> StoreInfo:
    """Return what is recorded in a collection. Raises ConfigError."""
    with _errors(target):
        metadata = client.get_collection(target.table).config.metadata or {}
    if _RECORD not in metadata:
        raise ConfigError(
            f"{target} records no model: edgeembed has not made it, or the server is older than Qdrant 1.16; choose another "
            "name, or a newer server"
        )
    return read_info(msgspec.json.encode(metadata[_RECORD]), str(target))


def _connect(target: Target) -> Any:
    qdrant = import_extra("qdrant_client", "qdrant", "a store in Qdrant")
    with _errors(target):
        if target.file is not None:
            return qdrant.QdrantClient(path=target.place)
        key = os.environ.get(KEY_VARIABLE)
        # Whether the server is new enough shows when it records what `create` gives it.
        return qdrant.QdrantClient(url=target.place, api_key=key, timeout=_SECONDS, check_compatibility=False)


@contextlib.contextmanager
def _connected(target: Target) -> Iterator[Any]:
    client = _connect(target)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _errors(target: Target) -> Iterator[None]:
    """Turn Qdrant's errors into ConfigError."""
    exceptions = import_extra("qdrant_client.http.exceptions", "qdrant", "a store in Qdrant")
    try:
        yield
    except (exceptions.ApiException, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"{target}: {str(error).strip()}") from error
