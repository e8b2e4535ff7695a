"""Signals of child processes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def listening_to_sigint() -> Iterator[None]:
    """Let processes started in this block react to SIGINT, also where the test runner ignores it (`nohup pytest &`).

    A child inherits signals that its parent ignores; those that the parent handles have their default again.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
