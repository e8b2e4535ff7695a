"""When each model was last used: a small file, rarely written; its errors never fail a request."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from edgeembed.common.files import read_json_or_warn, write_json
from edgeembed.common.status import UnixSeconds

log = logging.getLogger(__name__)

_RESOLUTION = 60.0
"""Seconds within which a second use of a model is not recorded."""
_MOST = 500


class Usage:
    """Unix seconds of the last use, by the SHA-256 of the model file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marked: dict[str, float] = {}

    def mark(self, digest: str) -> None:
        """Record that a model is used now, at most once a minute per model. Never raises."""
        now = time.time()
        if abs(now - self._marked.get(digest, 0.0)) < _RESOLUTION:
            return
        self._marked[digest] = now
        self._write({**self.all(), digest: now})

    def forget(self, digest: str) -> None:
        """Remove a model that was uninstalled."""
        self._marked.pop(digest, None)
        times = self.all()
        if times.pop(digest, None) is not None:
            self._write(times)

    def all(self) -> dict[str, float]:
        """Return the last use of all models that were ever used."""
        return read_json_or_warn(self._path, dict[str, UnixSeconds], "the last use of models is unknown") or {}

    def _write(self, times: dict[str, float]) -> None:
        latest = dict(sorted(times.items(), key=lambda item: item[1], reverse=True)[:_MOST])
        try:
            write_json(self._path, latest)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error)
