"""Columns of the input that pass to the output: their types, and values that fit them.

A type is the name of one for JSON values, of which the rows of the first shard decide, or that of a column of Parquet as
Arrow describes it: "arrow:" and a schema in Base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from edgeembed.bulk.tables import import_pyarrow

STRING, INT, DOUBLE, BOOL = "string", "int64", "double", "bool"
_ARROW = "arrow:"
_INT64 = range(-(2**63), 2**63)


def type_of(values: Iterable[Any]) -> str:
    """Return the type of a column with these JSON values: `string` for those of several types, and for lists and objects."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return BOOL
    if kinds == {int} and all(value is None or value in _INT64 for value in values):
        return INT
    return DOUBLE if kinds in ({float}, {int, float}) else STRING


def arrow_name(type_: Any) -> str:
    """Return the name of an Arrow type."""
    pa = import_pyarrow()
    return _ARROW + base64.b64encode(pa.schema([("", type_)]).serialize().to_pybytes()).decode()


def arrow_type(name: str) -> Any:
    """Return the Arrow type of a name."""
    pa = import_pyarrow()
    if name.startswith(_ARROW):
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(name.removeprefix(_ARROW)))).field(0).type
    return {STRING: pa.string(), INT: pa.int64(), DOUBLE: pa.float64(), BOOL: pa.bool_()}[name]


def fitted(value: Any, type_: str) -> Any:
    """Return a value in a column's type: a `pyarrow.Scalar` for Arrow types, a JSON value for others.

    A column of strings holds the JSON text of other values. Raises ValueError if the value does not fit.
    """
    if value is None:
        return None
    if type_.startswith(_ARROW):
        return _scalar(value, type_)
    value = plain(value)
    if type_ == STRING:
        return value if isinstance(value, str) else orjson.dumps(value).decode()
    number: Any = value
    kinds: dict[str, tuple[type, ...]] = {INT: (int,), DOUBLE: (int, float), BOOL: (bool,)}
    if not isinstance(value, kinds[type_]) or (isinstance(value, bool) and type_ != BOOL):
        raise ValueError(f"a {type(value).__name__}, not {type_} as in the first rows")
    if type_ == INT and value not in _INT64:
        raise ValueError("not a 64-bit integer, as in the first rows")
    return number if type_ != DOUBLE else float(number)


def _scalar(value: Any, type_: str) -> Any:
    pa = import_pyarrow()
    wanted = arrow_type(type_)
    try:
        if isinstance(value, pa.Scalar):
            return value if value.type.equals(wanted) else value.cast(wanted)
        return pa.scalar(value, wanted)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not {wanted}, as in the first input") from error


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: that of an Arrow scalar, with dates and decimals as text and bytes in Base64."""
    if hasattr(value, "as_py"):
        pa = import_pyarrow()
        # Of nanoseconds, which no type of Python has, it would depend on what else is installed.
        nanoseconds = pa.types.is_timestamp(value.type) or pa.types.is_time64(value.type)
        value = (value.cast(pa.string()) if nanoseconds else value).as_py()
    return orjson.loads(orjson.dumps(value, default=_as_json, option=orjson.OPT_NON_STR_KEYS))


def _as_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def in_order(names: Iterable[str], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row for the columns of the output; None for those that the row lacks."""
    return {name: kept.get(name) for name in names}
