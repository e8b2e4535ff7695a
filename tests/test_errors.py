"""The tree of exceptions: complete, documented, and useful for clients."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from edgeembed import errors
from edgeembed.errors import (
    EdgeEmbedError,
    InputTooLongError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
)

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
}


def test_every_class_is_exported_and_documented_under_its_parent() -> None:
    assert sorted(CLASSES) == errors.__all__
    assert errors.__doc__
    parents: dict[int, str] = {}
    drawn = {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^(    [│├└─ ]*?)([A-Z]\w+Error)\b", line):
            depth = len(found[1])
            drawn[found[2]] = parents[max(above for above in parents if above < depth)] if parents else None
            parents = {above: name for above, name in parents.items() if above < depth} | {depth: found[2]}
    assert drawn == {name: None if value is EdgeEmbedError else value.__base__.__name__ for name, value in CLASSES.items()}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_copies_in_other_processes_are_the_same(name: str) -> None:
    """Dask and others return exceptions of their processes."""
    more = {"InputTooLongError": {"tokens": 9, "limit": 4}, "DamagedModelError": {"advice": "pull it again"}}
    made = CLASSES[name]("a reason", **more.get(name, {}))
    copy = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), vars(copy)) == (type(made), str(made), vars(made))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_status_and_type_are_consistent(name: str) -> None:
    found = CLASSES[name]
    if found is OverloadedError:  # not the client's mistake: the same request may succeed later
        assert (found.status, found.type) == (429, "rate_limit_exceeded")
        return
    is_request_error = issubclass(found, RequestError)
    assert found.status in (range(400, 500) if is_request_error else range(500, 600))
    assert found.type == ("invalid_request_error" if is_request_error else "server_error")
    assert found.exit_code in (1, 2)
    assert inspect.getdoc(found)


def test_codes_are_unique() -> None:
    codes = [found.code for found in CLASSES.values() if found.code]
    assert len(codes) == len(set(codes))


def test_the_fields_for_clients() -> None:
    error: EdgeEmbedError = InputTooLongError("too long", tokens=600, limit=512, param="input[3]")
    assert (str(error), error.message, error.param, error.status) == ("too long", "too long", "input[3]", 400)
    assert error.retry_after is None
    assert ModelNotFoundError("no").status == 404
