"""What a store is to jobs and searches: rows with ids that are put, deleted and found."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from edgeembed.bulk.kept import plain
from edgeembed.bulk.records import Id
from edgeembed.common.installation import find_installation
from edgeembed.errors import ConfigError
from edgeembed.inference.postprocess import Matrix

RESERVED = ("id", "text", "vector", "score", "rowid")
"""Names that columns of metadata cannot have."""

Where = Mapping[str, Any]
"""Columns of metadata -> the values that rows must have; a sequence of values for one of them."""


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded in a store when it is made. Only vectors of the same model file can be compared.

    model, type, digest: name, type and SHA-256 of the model's file; the latter two are empty when unknown. ids: the type of
    all ids. columns: names of the metadata that rows have. job: identifies the job that made the store; empty without one.
    """

    version: Literal[1] = 1
    model: str
    type: str = ""
    digest: str = ""
    dimensions: int
    ids: Literal["int", "string"] = "string"
    with_text: bool = True
    columns: tuple[str, ...] = ()
    column_types: tuple[Literal["string", "int64", "double", "bool"], ...] = ()
    """Of the columns, for databases that need to know; strings where it is not given."""
    dtype: str = "float32"
    input_type: str | None = None
    instruction: str | None = None
    job: str = ""

    @property
    def spec(self) -> str:
        """The model's name, with its type if that is known: what to ask a daemon for."""
        return f"{self.model}:{self.type}" if self.type and self.type != "unknown" else self.model

    @property
    def types(self) -> dict[str, str]:
        """The columns and their types."""
        given = self.column_types or ("string",) * len(self.columns)
        return dict(zip(self.columns, given, strict=True))

    def require_names(self) -> None:
        """Raise ConfigError for a column whose name a store needs itself."""
        for name in self.columns:
            if name.lower() in RESERVED:
                raise ConfigError(f"a column of metadata cannot be called {name!r} in a store; rename it")

    def require_same_model(self, model: str, digest: str, dimensions: int, place: str) -> None:
        """Raise ConfigError if a model's vectors cannot be compared with the store's. place: the store, for people."""
        remedy = "their vectors cannot be compared. Name the store's own model with --model, or make the store again"
        if self.digest and digest and self.digest != digest:
            raise ConfigError(
                f"{place} was made with the file {self.digest[:12]} of {self.spec}, but {model} is the file {digest[:12]}; "
                f"{remedy}"
            )
        if not (self.digest and digest) and self.model and self.model != model:
            raise ConfigError(f"{place} was made with {self.spec}, not {model}; {remedy}")
        if dimensions < self.dimensions:
            raise ConfigError(
                f"{place} has vectors of {self.dimensions} dimensions, but those of {model} have {dimensions}; name the "
                "model that made the store with --model"
            )


class StoreRows(NamedTuple):
    """Rows to put. vectors: of length 1, float32, shape (rows, dimensions). columns: name -> a value for each row.

    Values are None, bool, int, float or str; anything else is stored as JSON text. A column that is missing is None.
    """

    ids: Sequence[Id]
    vectors: Matrix
    texts: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = {}


class Found(NamedTuple):
    """A row that was found. score: cosine similarity to the query, or of a reranker. text: None where none is stored."""

    id: Id
    score: float
    text: str | None
    columns: dict[str, Any]


class Searchable(Protocol):
    """Rows that can be searched. Any thread may call, one at a time."""

    info: StoreInfo

    def search(self, vector: Matrix, k: int, where: Where | None = None) -> list[Found]:
        """Return the k rows nearest to a vector of length 1, shape (dimensions,), the best first. Raises ConfigError."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class Store(Searchable, Protocol):
    """A table of a database. A change is complete and kept when its method returns.

    A change that a kill interrupts has not happened; Qdrant's may have happened in part, until it is made again.
    """

    def put(self, rows: StoreRows) -> None:
        """Add rows; those whose ids exist are replaced. Of rows with the same id, the last one stays."""
        ...

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete the rows with these ids, as far as they exist."""
        ...

    def delete_where(self, where: Where) -> None:
        """Delete the rows whose columns have these values."""
        ...

    def ids(self, where: Where | None = None) -> Iterator[Id]:
        """Yield the ids of all rows, or of those whose columns have these values, in no particular order."""
        ...

    def count(self) -> int:
        """Return the number of rows."""
        ...


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a library that is an extra. Raises ConfigError that says how to install it. what: what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{what} needs {module.partition('.')[0]}: {find_installation().add(extra)}") from error


def cell(value: Any) -> str | int | float | bool | None:
    """Return a value as databases take it: lists and objects become JSON text."""
    if isinstance(value, str | int | float | bool | None):
        return value
    value = plain(value)
    return value if isinstance(value, str | int | float | bool | None) else msgspec.json.encode(value).decode()


def typed(value: Any, type_: str) -> str | int | float | bool | None:
    """Return a value as a column of a type takes it."""
    found = cell(value)
    if found is None or (isinstance(found, str) and type_ == "string"):
        return found
    match type_:
        case "int64":
            return int(found)
        case "double":
            return float(found)
        case "bool":
            return bool(found)
        case _:
            return found if isinstance(found, str) else msgspec.json.encode(found).decode()


def fitting(values: Sequence[Any], type_: str) -> list[Any]:
    """Return those of the values that a column of a type can hold."""
    kinds: dict[str, tuple[type, ...]] = {"int64": (int,), "double": (int, float), "bool": (bool, int), "string": (str,)}
    return [value for value in values if value is None or isinstance(value, kinds[type_])]


def read_info(recorded: str | bytes, place: str) -> StoreInfo:
    """Return what is recorded in a store, from its JSON. Raises ConfigError for what another version has recorded."""
    try:
        return msgspec.json.decode(recorded, type=StoreInfo)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{place} was made by another version of edgeembed ({error}); make it again") from error


def values_of(wanted: Any) -> list[Any]:
    """Return the values that a condition allows."""
    many = isinstance(wanted, Sequence | set | frozenset) and not isinstance(wanted, str | bytes)
    return [cell(value) for value in wanted] if many else [cell(wanted)]


def require_columns(info: StoreInfo, names: Sequence[str] | Where, place: str) -> None:
    """Raise ConfigError for a column that the store does not have. place: the store, for people."""
    for name in names:
        if name not in info.columns:
            known = f"its columns are {', '.join(info.columns)}" if info.columns else "it has no columns of metadata"
            raise ConfigError(f"{place} has no column {name!r}; {known}")


def last_of_each(rows: StoreRows) -> list[int]:
    """Return the places of the rows to keep, in order: of those with the same id, the last one."""
    places = {id_: place for place, id_ in enumerate(rows.ids)}
    return sorted(places.values())
