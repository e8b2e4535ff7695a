"""Starts child processes that tests send signals to."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Any


def start_interruptible(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a process that SIGINT interrupts, even if the test runner ignores SIGINT, as under `nohup … &`.

    A child inherits ignored signals, and Python then installs no handler of its own. A signal that the parent handles is set
    back to its default action in the child.
    """
    assert threading.current_thread() is threading.main_thread(), "only the main thread can set signal handlers"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, text=True, **options)
    finally:
        signal.signal(signal.SIGINT, before)
