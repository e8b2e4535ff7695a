"""A case: the requests of a published test, what must hold of their answers, and where we differ on purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MODEL = "all-minilm-l6-v2"
"""The embedder of the daemon that cases run against: 384 dimensions, 512 tokens."""
RERANKER = "tiny-ranker"
"""Its reranker: a cross-encoder with random weights, so that its order of documents means nothing."""
CLASSIFIER = "tiny-judge"
"""Its classifier of two labels, with random weights."""
COLBERT = "tiny-colbert"
"""Its model with vectors of tokens alone, of 8 dimensions, with random weights."""
WHOLE = "tiny-m3"
"""Its model with dense vectors, vectors of tokens and sparse vectors, with random weights."""
KEY = "the-key-of-the-cases"
"""The API key of the daemon whose cases ask for one."""


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def post(path: str, /, **body: Any) -> Ask:
    """Return a POST request with a JSON object."""
    return Ask("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})


def send(method: str, path: str, content: bytes | str | None = None, /, **headers: str) -> Ask:
    """Return a request with these bytes; underscores in names of headers stand for hyphens."""
    raw = content.encode() if isinstance(content, str) else content
    return Ask(method, path, raw, {name.replace("_", "-"): value for name, value in headers.items()})


def get(path: str, /, **headers: str) -> Ask:
    """Return a GET request."""
    return send("GET", path, **headers)


@dataclass(frozen=True)
class Differs:
    """Why a case does not hold, on purpose: the name of the reason in docs/dialects.md, and what holds instead."""

    reason: str
    instead: tuple[str, ...]


def differs(reason: str, *instead: str) -> Differs:
    """Return a difference on purpose; instead: what holds of the answers, as in `case`."""
    return Differs(reason, instead)


@dataclass(frozen=True)
class Case:
    """One published test.

    test: the file in the peer's repository, and the test's name; in brackets what this case is of several.
    holds: Python expressions over the answers, which are called a, b, c, …, with the names of `tests.published.answers`.
    """

    test: str
    asks: tuple[Ask, ...]
    holds: tuple[str, ...]
    differs: Differs | None = None
    keyed: bool = False


def case(test: str, /, *parts: Ask | str | Differs, keyed: bool = False) -> Case:
    """Return a case of its requests and expectations, in any order."""
    found = [part for part in parts if isinstance(part, Differs)]
    return Case(
        test,
        tuple(part for part in parts if isinstance(part, Ask)),
        tuple(part for part in parts if isinstance(part, str)),
        found[0] if found else None,
        keyed,
    )


@dataclass(frozen=True)
class LeftOut:
    """Tests of a retold file that do not apply to a server of embeddings, or not to these models."""

    file: str
    count: int
    why: str


@dataclass(frozen=True)
class Peer:
    """A server with published tests. other_files: what its other tests are about."""

    name: str
    repository: str
    cases: Sequence[Case]
    left_out: Sequence[LeftOut]
    other_files: str
