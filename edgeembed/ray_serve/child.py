"""Runs a replica's daemon: `python -m edgeembed.ray_serve.child`, with settings in its variables.

The daemon stops when standard input ends, so none outlives its replica, not even one that was killed. Its cache has a folder
of its own, the first that no other replica of this machine holds: what one replica has stored, the next one finds.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

from filelock import FileLock, Timeout

from edgeembed.common.files import make_private_folder
from edgeembed.config.paths import CACHE_VARIABLE, Paths

FOLDER = "replicas"
"""In the folder of the cache."""


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def claim_folder() -> FileLock:
    """Set the variable of the cache's folder to one that no other process holds; return its lock, to be kept."""
    folder = Paths.resolve().cache / FOLDER
    make_private_folder(folder)
    number = 0
    while True:
        lock = FileLock(folder / f"{number}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            number += 1
            continue
        os.environ[CACHE_VARIABLE] = str(folder / str(number))
        return lock


def main() -> None:
    """Serve until standard input ends, or a signal comes."""
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    lock = claim_folder()
    sys.argv = ["edgeembed", "serve"]
    try:
        runpy.run_module("edgeembed", run_name="__main__")
    finally:
        lock.release()


if __name__ == "__main__":
    main()
