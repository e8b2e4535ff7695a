"""The identity of an upstream model: a digest of the rows that it gave for the canary texts, kept in a file.

A local model is identified by its file's digest; a server does not publish one. What distinguishes the models of two servers
is what they compute, so the digest of the canary rows takes the place of the file's digest, above all in the cache's keys.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edgeembed.common.files import read_json_or_warn, write_json
from edgeembed.engine.canary import TEXTS, cosine, defect
from edgeembed.engine.float_strings import decode_floats, encode_floats
from edgeembed.engine.interface import Float32Row
from edgeembed.upstream.wire import RowEncoding, tokens_about

log = logging.getLogger(__name__)

CANARY_TEXTS: Sequence[str] = TEXTS
"""Shorter ones first: where not all fit into the context, the last one is left out."""
SENTINELS = 2
"""So many of the first canary texts, which are short, are the sentinel texts. Each request carries one or more, whose rows
show that the answer comes from the right model, whatever was restarted, replaced or put behind a load balancer meanwhile."""

SCHEMA = b"edgeembed upstream 1"
MOST_KEPT = 32
_MOST_DIMENSIONS = 2**20
_UNIT = 1e-3
"""Largest distance of a normalised row's length from 1."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A model of an upstream server, identified by its rows."""

    url: str
    """Where it was last seen."""
    model: str
    digest: str
    rows: str
    """Rows of the canary texts that fit, as first seen: shape (texts, dimensions), as in `float_strings`."""
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=_MOST_DIMENSIONS)]
    canary_tokens: list[int] = []
    """Of each canary text, as upstream counts them; empty where it does not."""
    context_tokens: int = 0
    """0: unknown."""
    encoding: RowEncoding = "base64"
    seen_at: float = 0.0
    """Unix seconds."""

    def __post_init__(self) -> None:
        """Raise ValueError for rows that cannot be read: the file was damaged."""
        _ = self.canary_rows

    @property
    def canary_rows(self) -> list[Float32Row]:
        return list(decode_floats(self.rows).reshape(-1, self.dimensions))

    def tokens_of(self, number: int) -> int:
        """Return the tokens of a canary text."""
        return self.canary_tokens[number] if self.canary_tokens else tokens_about(CANARY_TEXTS[number])

    @property
    def normalised(self) -> bool:
        """Whether its rows have length 1, as those of most servers do."""
        return all(abs(float(np.linalg.norm(row.astype(np.float64))) - 1) < _UNIT for row in self.canary_rows)


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream server returned for the canary texts."""

    rows: Sequence[Float32Row]
    canary_tokens: list[int]
    context_tokens: int
    encoding: RowEncoding


def least_cosine(rows: Sequence[Float32Row], others: Sequence[Float32Row]) -> float:
    """Return the least cosine of a row to its counterpart; 0 if lengths or counts differ, or a row is unusable."""
    if len(rows) != len(others) or not rows:
        return 0.0
    pairs = list(zip(rows, others, strict=True))
    if any(len(one) != len(other) or defect(one) or defect(other) for one, other in pairs):
        return 0.0
    return min(cosine(one, other) for one, other in pairs)


def misplaced(rows: Sequence[Float32Row], expected: Sequence[Float32Row], min_cosine: float) -> bool:
    """Return whether a row is at the place of another one."""
    pairs = [(one, other) for one in range(len(rows)) for other in range(len(expected)) if one != other]
    return any(
        least_cosine([rows[one]], [expected[other]]) >= min_cosine > least_cosine([rows[one]], [expected[one]])
        for one, other in pairs
    )


class IdentityStore:
    """The identities that this daemon has seen, in a file; it names the last one while upstream is unavailable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, url: str, model: str | None) -> Identity | None:
        """Return the identity last seen at this address under this name, or under any name if `model` is None."""
        found = [one for one in self._read() if one.url == url and model in (None, one.model)]
        return max(found, key=lambda one: one.seen_at, default=None)

    def recognise(self, url: str, model: str, result: ProbeResult, min_cosine: float) -> tuple[Identity, float]:
        """Return the identity of a probe result, an earlier one if its rows are near enough, and the cosine to it.

        It is written to the file; a write error is only logged.
        """
        earlier = self._read()
        near = [
            (found, one)
            for one in earlier
            if one.model == model and (found := least_cosine(result.rows, one.canary_rows)) >= min_cosine
        ]
        if near:
            found, identity = max(near, key=lambda pair: pair[0])
        else:
            found, identity = 1.0, _new(model, result)
        identity = msgspec.structs.replace(
            identity,
            url=url,
            canary_tokens=result.canary_tokens,
            context_tokens=result.context_tokens,
            encoding=result.encoding,
            seen_at=time.time(),
        )
        self._write([identity, *(one for one in earlier if one.digest != identity.digest)])
        return identity, found

    def renew(self, identity: Identity) -> Identity:
        """Return the identity under a new digest and forget the old one, whose rows in the cache are then not used again."""
        renewed = msgspec.structs.replace(identity, digest=_digest(identity.model, secrets.token_bytes(32)))
        self._write([renewed, *(one for one in self._read() if one.digest != identity.digest)])
        return renewed

    def _write(self, identities: Sequence[Identity]) -> None:
        kept = sorted(identities, key=lambda one: one.seen_at, reverse=True)
        try:
            write_json(self._path, kept[:MOST_KEPT])
        except OSError as error:
            log.warning("cannot write upstream's identities to %s: %s", self._path, error)

    def _read(self) -> list[Identity]:
        return read_json_or_warn(self._path, list[Identity], "upstream's identity is found out again") or []


def _new(model: str, result: ProbeResult) -> Identity:
    matrix = np.stack(list(result.rows)).astype("<f4")
    return Identity(
        url="",
        model=model,
        digest=_digest(model, matrix.tobytes()),
        rows=encode_floats(matrix),
        dimensions=matrix.shape[1],
        canary_tokens=result.canary_tokens,
    )


def _digest(model: str, rows: bytes) -> str:
    digest = hashlib.sha256(SCHEMA)
    for field in (model.encode(), rows):
        digest.update(len(field).to_bytes(8, "little") + field)
    return digest.hexdigest()
