"""Whose rows they are: what an upstream server gave for fixed texts, kept so that its rows are known again.

A model file has a digest; a server has none that it would tell. What tells two servers' models apart is what they compute:
the rows of the canary texts. Their digest stands for the model wherever a local file's digest would, in the cache's keys
first of all.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgeembed.common.files import write_json
from edgeembed.engine.canary import TEXTS, cosine, defect
from edgeembed.engine.interface import Float32Row
from edgeembed.upstream.wire import RowEncoding

log = logging.getLogger(__name__)

CANARY_TEXTS: Sequence[str] = TEXTS
"""The shorter ones first: where not all fit, the last one is left out."""
SENTINEL_TEXT = CANARY_TEXTS[0]
"""Rides along with every request, a few tokens long: its row shows in the same answer that the others are whose they should
be, whatever was restarted, replaced or put behind a load balancer meanwhile."""

SCHEMA = b"edgeembed upstream 1"
MOST_KEPT = 32
_UNIT = 1e-3
"""How far a normalised row's length may be from 1."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A model of an upstream server, known by its rows."""

    url: str
    """Where it was seen last."""
    model: str
    digest: str
    rows: str
    """Base64 of the canary texts' rows at first sight: float32, little-endian, shape (texts, dimensions), of the texts that
    fitted."""
    dimensions: int
    rider_tokens: int
    context_tokens: int = 0
    """0: nobody knows."""
    encoding: RowEncoding = "base64"
    seen_at: float = 0.0
    """Unix seconds."""

    @property
    def canary_rows(self) -> list[Float32Row]:
        matrix = np.frombuffer(base64.b64decode(self.rows), dtype="<f4").reshape(-1, self.dimensions)
        return list(matrix.astype(np.float32))

    @property
    def normalised(self) -> bool:
        """Whether its rows have length 1, as those of most servers."""
        return all(abs(float(np.linalg.norm(row.astype(np.float64))) - 1) < _UNIT for row in self.canary_rows)


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream server has just given for the canary texts."""

    rows: Sequence[Float32Row]
    rider_tokens: int
    context_tokens: int
    encoding: RowEncoding


def least_cosine(rows: Sequence[Float32Row], others: Sequence[Float32Row]) -> float:
    """Give the least cosine of each row to its counterpart; 0 where their lengths or numbers differ, or one is unusable."""
    if len(rows) != len(others) or not rows:
        return 0.0
    pairs = list(zip(rows, others, strict=True))
    if any(len(one) != len(other) or defect(one) or defect(other) for one, other in pairs):
        return 0.0
    return min(cosine(one, other) for one, other in pairs)


class IdentityStore:
    """The identities that this daemon has seen, in a file; it also says whose cached rows are when upstream is away."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, url: str, model: str | None) -> Identity | None:
        """Give what was seen last at this address under this name, or under any."""
        known = [one for one in self._read() if one.url == url and model in (None, one.model)]
        return max(known, key=lambda one: one.seen_at, default=None)

    def recognise(self, url: str, model: str, sight: ProbeResult, min_cosine: float) -> tuple[Identity, float]:
        """Give the identity of what was just seen, an old one where the rows are near enough, and the cosine to it.

        It is written down; a disk that does not take it is told in the log.
        """
        known = self._read()
        near = [
            (found, one)
            for one in known
            if one.model == model and (found := least_cosine(sight.rows, one.canary_rows)) >= min_cosine
        ]
        if near:
            found, identity = max(near, key=lambda pair: pair[0])
        else:
            found, identity = 1.0, _new(model, sight)
        identity = msgspec.structs.replace(
            identity,
            url=url,
            rider_tokens=sight.rider_tokens,
            context_tokens=sight.context_tokens,
            encoding=sight.encoding,
            seen_at=time.time(),
        )
        kept = sorted(
            [identity, *(one for one in known if one.digest != identity.digest)], key=lambda one: one.seen_at, reverse=True
        )
        try:
            write_json(self._path, kept[:MOST_KEPT])
        except OSError as error:
            log.warning("what upstream's rows are like cannot be kept: %s", error)
        return identity, found

    def _read(self) -> list[Identity]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Identity])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read, and begins anew: %s", self._path, error)
            return []


def _new(model: str, sight: ProbeResult) -> Identity:
    matrix = np.stack(list(sight.rows)).astype("<f4")
    return Identity(
        url="",
        model=model,
        digest=_digest(model, matrix.tobytes()),
        rows=base64.b64encode(matrix.tobytes()).decode("ascii"),
        dimensions=matrix.shape[1],
        rider_tokens=sight.rider_tokens,
    )


def _digest(model: str, rows: bytes) -> str:
    digest = hashlib.sha256(SCHEMA)
    for field in (model.encode(), rows):
        digest.update(len(field).to_bytes(8, "little") + field)
    return digest.hexdigest()
