"""How this program starts itself again as another process."""

from __future__ import annotations

import sys


def command(*arguments: str) -> list[str]:
    """Return the command line that runs `edgeembed` with these arguments."""
    if getattr(sys, "frozen", False):  # a bundle's executable is edgeembed itself
        return [sys.executable, *arguments]
    # -P: the working directory may be the user's home, whose files must not be imported as modules.
    return [sys.executable, "-P", "-m", "edgeembed", *arguments]
