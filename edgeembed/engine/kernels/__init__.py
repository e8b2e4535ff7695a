"""Our kernels for processors, compiled when the package is built; without a compiler there are none.

This module only finds them: it loads nothing, so that the daemon's own process may ask.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


def library_file() -> Path | None:
    """Give the file of the compiled kernels; None when there is none."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = FOLDER / f"_kernels{suffix}"
        if file.is_file():
            return file
    return None


@cache
def fingerprint() -> str:
    """Give a digest of the compiled kernels: what was found out about a machine holds for these very ones."""
    file = library_file()
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8] if file else "none"
