"""Ends the worker when the daemon is gone, also while the reader computes and cannot notice."""

from __future__ import annotations

import os
import select
import sys
import threading
import time

GRACE_SECONDS = 10.0
"""For the reader, which ends the process itself when it reads the end of the pipe; a forward pass may take this long."""


def start_guard(file: int = 0) -> bool:
    """Watch the daemon's end of the pipe; return whether that is possible. file: the pipe, standard input by default."""
    if sys.platform != "linux":
        return False
    poll = select.poll()
    try:
        poll.register(file, 0)  # without events, it waits until the other end is closed
    except OSError:  # not a file descriptor that can be polled
        return False
    threading.Thread(target=_wait, args=(poll,), name="guard", daemon=True).start()
    return True


def _wait(poll: select.poll) -> None:
    while not poll.poll():
        pass
    time.sleep(GRACE_SECONDS)
    os._exit(1)
