"""The child process that owns one loaded model.

Started as `python -m edgeembed.engine.worker.main MODE OPTIONS_JSON`; frames come in on stdin and go out on what was stdout.

When stdin ends, the daemon is gone, and the process exits at once, so that a killed daemon leaves no workers behind. When a
thread fails, the process exits too, and the daemon starts another one: a worker without its reader would never answer.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from edgeembed.common.heap import configure_heap
from edgeembed.common.log_content import format_traceback

OPENMP_SPINS = "4000"
"""How often a thread of llama.cpp checks for more work before it sleeps, unless the environment sets it: enough to stay
awake between two operations of a forward pass, but not between two requests (GNU OpenMP's default keeps a processor busy for
many milliseconds)."""

SWITCH_SECONDS = 0.0002
"""How long a thread that returns from llama.cpp waits at most for another one that runs Python code. Each query returns
several times, and beside a bulk load there is always a thread that reads its texts or sends its rows."""


def _end_process(error: BaseException) -> NoReturn:
    """Print an exception, which the daemon quotes, and exit."""
    sys.excepthook(type(error), error, error.__traceback__)
    sys.stderr.flush()
    os._exit(1)


def _print_without_message(kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    sys.stderr.write(f"{kind.__qualname__ if error is None else format_traceback(error)}\n")


def main(argv: list[str]) -> int:
    """Run a worker and return its exit status; see the module's docstring."""
    threading.excepthook = lambda failure: _end_process(failure.exc_value or failure.exc_type())
    faulthandler.enable()  # a native crash prints its stack to stderr, which the daemon quotes
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.disable()  # until the model is loaded: nothing that is imported becomes garbage
    configure_heap()
    # NumPy's library would start threads that compute nothing here, and Landlock restricts only the thread that asks for it.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    # After the lines above: the libraries read the variables when they are loaded.
    import msgspec

    from edgeembed.engine.ipc.activity_table import ActivityTable
    from edgeembed.engine.ipc.pipe import Pipe
    from edgeembed.engine.llama.backends import FOLDER
    from edgeembed.engine.llama.library import send_log_to
    from edgeembed.engine.sandbox import Sandbox
    from edgeembed.engine.worker.serving import Worker
    from edgeembed.engine.worker_options import WorkerOptions

    options = msgspec.json.decode(argv[2], type=WorkerOptions)
    # Only frames go to the real stdout; whatever else is printed there goes to stderr.
    sink = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    # From here on exceptions may quote texts.
    sys.excepthook = _print_without_message
    sys.unraisablehook = lambda failure: _print_without_message(failure.exc_type, failure.exc_value, failure.exc_traceback)
    warnings.simplefilter("ignore")
    send_log_to(sys.stderr.write, verbose=options.verbose)
    activity_table = ActivityTable(Path(options.activity_table) if options.activity_table else None)
    # From here on no file can be opened for writing, and no thread may run yet.
    sandbox = Sandbox(Path(options.path), options.device, enabled=options.sandbox)
    sandbox.restrict_files([FOLDER])
    try:
        return Worker(options, Pipe(os.fdopen(0, "rb", closefd=False), sink), activity_table, sandbox).run()
    except Exception as error:
        # Python's own end would wait for the reader, and abort with a message about standard input.
        _end_process(error)


if __name__ == "__main__":
    status = main(sys.argv)
    sys.stderr.flush()
    # Everything is sent. A normal exit would wait for the reader, which waits for the daemon, and then free memory that the
    # operating system frees faster.
    os._exit(status)
