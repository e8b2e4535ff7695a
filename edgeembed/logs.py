"""The one logger setup."""

from __future__ import annotations

import logging
import sys


def setup_logging(level: str) -> None:
    """Send log lines of at least `level` to stderr. Texts that users send are never logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("edgeembed")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
