"""How this program starts itself again as another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

_NO_WINDOW, _BREAKAWAY = 0x08000000, 0x01000000
"""CREATE_NO_WINDOW and CREATE_BREAKAWAY_FROM_JOB, which Python has on Windows only."""


def command(*arguments: str) -> list[str]:
    """Return the command line that runs `edgeembed` with these arguments."""
    if getattr(sys, "frozen", False):  # a bundle's executable is edgeembed itself
        return [sys.executable, *arguments]
    # -P: the working directory may be the user's home, whose files must not be imported as modules.
    return [sys.executable, "-P", "-m", "edgeembed", *arguments]


def start_detached(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program so that neither a Ctrl-C in our terminal nor our exit stops it. Raises OSError.

    options: of `subprocess.Popen`; without more, it reads nothing and its output is discarded.
    """
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    options = {**streams, **options, "start_new_session": True}
    if sys.platform != "win32":
        return subprocess.Popen(words, **options)
    try:
        # Programs such as ssh's server end all processes of their job.
        return subprocess.Popen(words, creationflags=_NO_WINDOW | _BREAKAWAY, **options)
    except PermissionError:  # the job does not allow it
        return subprocess.Popen(words, creationflags=_NO_WINDOW, **options)


def start_anew() -> NoReturn:
    """Replace this process by a new one with the same command, variables and output, and on POSIX the same process id.

    Nothing of this process may have to be tidied up: threads and child processes have ended, sockets are closed.
    """
    given = sys.argv[1:] if getattr(sys, "frozen", False) else sys.orig_argv[1:]
    again = [sys.executable, *given]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.name == "posix":
        os.execv(again[0], again)
    # Windows has no exec that keeps the process: its own starts another one, and loses how arguments were quoted.
    subprocess.Popen(again, close_fds=True)
    os._exit(0)
