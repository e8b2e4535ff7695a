"""When each model was used last: one small file, written seldom, and never a reason for a request to fail."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec

from edgeembed.common.files import write_json

log = logging.getLogger(__name__)

_RESOLUTION = 60.0
"""Seconds within which a second use of a model is not written down."""
_MOST = 500


class Usage:
    """Unix seconds of the last use, by the SHA-256 of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marked: dict[str, float] = {}

    def mark(self, digest: str) -> None:
        """Write down that a model is used now; at most once a minute for each. Never raises."""
        now = time.time()
        if abs(now - self._marked.get(digest, 0.0)) < _RESOLUTION:
            return
        self._marked[digest] = now
        self._write({**self.all(), digest: now})

    def forget(self, digest: str) -> None:
        """Drop a model that is gone."""
        self._marked.pop(digest, None)
        known = self.all()
        if known.pop(digest, None) is not None:
            self._write(known)

    def all(self) -> dict[str, float]:
        """Give the last use of every model that was ever used."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("cannot read %s, nobody knows when models were used: %s", self._path, error)
            return {}

    def _write(self, known: dict[str, float]) -> None:
        latest = dict(sorted(known.items(), key=lambda item: item[1], reverse=True)[:_MOST])
        try:
            write_json(self._path, latest)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error)
