"""Entry point of the frozen program: `edgeembed`, or the Python that edgeembed starts as a child.

The daemon starts its workers, and pip, as `sys.executable -P -m MODULE ARGUMENTS`. In a frozen program `sys.executable` is
the program itself, so it must support these arguments; all others are the command line of edgeembed. A double click passes
no arguments, and means the icon: `edgeembed tray`.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

WINDOWED = "edgeembedw"
"""The program without a console on Windows (edgeembed.spec)."""


def main(system: str = sys.platform) -> None:
    """Run a module if the arguments are those of Python, else edgeembed."""
    arguments = sys.argv[1:]
    if arguments[:2] == ["-P", "-m"] and len(arguments) > 2:
        sys.argv = [sys.argv[0], *arguments[3:]]
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
        return
    # macOS before 10.15 added a process serial number.
    if not [word for word in arguments if not word.startswith("-psn_")] and double_clicked(system):
        sys.argv = [sys.argv[0], "tray"]
    from edgeembed.cli.main import main as edgeembed

    edgeembed()


def double_clicked(system: str) -> bool:
    """Return whether the desktop started this process, and no shell or program that wants to read the usage."""
    if system == "win32":
        return Path(sys.executable).stem.lower() == WINDOWED or _owns_console()
    if system == "darwin":
        # launchd starts what is opened, with no terminal.
        terminal = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
        return os.getppid() == 1 and not terminal
    return False


def _owns_console() -> bool:
    """Return whether this is the only process on its Windows console, which therefore closes when it ends."""
    import ctypes

    processes = (ctypes.c_uint32 * 2)()
    count: int = ctypes.windll.kernel32.GetConsoleProcessList(processes, 2)  # type: ignore[attr-defined,unused-ignore]
    return count == 1


if __name__ == "__main__":
    main()
