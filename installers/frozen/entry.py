"""Entry point of the frozen program: `edgeembed`, or the Python that edgeembed starts as a child.

The daemon starts its workers, and pip, as `sys.executable -P -m MODULE ARGUMENTS`. In a frozen program `sys.executable` is
the program itself, so it must support these arguments; all others are the command line of edgeembed.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Run a module if the arguments are those of Python, else edgeembed."""
    arguments = sys.argv[1:]
    if arguments[:2] == ["-P", "-m"] and len(arguments) > 2:
        sys.argv = [sys.argv[0], *arguments[3:]]
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
        return
    from edgeembed.cli.main import main as edgeembed

    edgeembed()


if __name__ == "__main__":
    main()
