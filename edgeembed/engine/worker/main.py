"""The child process that owns one loaded model.

Started as `python -m edgeembed.engine.worker.main RUNG OPTIONS_JSON`; frames come in on stdin and go out on what was stdout.

When stdin ends, the daemon is gone, and the process exits at once: no orphan survives a killed daemon. When a thread fails,
the process ends too: the daemon starts another one, where a worker without its reader would never answer again.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading

import msgspec

from edgeembed.engine.ipc.pipe import Pipe
from edgeembed.engine.worker_options import WorkerOptions

OPENMP_SPINS = "4000"
"""How often a thread of llama.cpp's looks whether there is more to do before it sleeps, if nobody has set it: enough between
two operations of a forward pass, and nothing between two requests (GNU OpenMP's own default burns a processor for many
milliseconds)."""

SWITCH_SECONDS = 0.001
"""What a thread that comes out of llama.cpp waits at most for another one that is busy in Python."""


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """Print a thread's exception, for the daemon to quote, and end the process."""
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    sys.stderr.flush()
    os._exit(1)


def main(argv: list[str]) -> int:
    """Run a worker; see the module's docstring."""
    threading.excepthook = _end_process
    faulthandler.enable()  # a native crash leaves a stack on stderr, which the daemon quotes
    sys.setswitchinterval(SWITCH_SECONDS)
    options = msgspec.json.decode(argv[2], type=WorkerOptions)
    # Frames keep the real stdout for themselves; whatever else prints there goes to stderr.
    sink = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    # Behind the line above: the library reads it when it is loaded.
    from edgeembed.engine.llama.library import send_log_to
    from edgeembed.engine.worker.serving import Worker

    send_log_to(sys.stderr.write, verbose=options.verbose)
    return Worker(options, Pipe(sys.stdin.buffer, sink)).run()


if __name__ == "__main__":
    status = main(sys.argv)
    sys.stderr.flush()
    # Everything is sent. A normal exit would wait for the reader, which waits for the daemon, and then free what the
    # operating system frees faster.
    os._exit(status)
