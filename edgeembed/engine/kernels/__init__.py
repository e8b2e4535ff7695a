"""Our kernels for processors, compiled when the package is built; without a compiler there are none.

This module finds the compiled library and loads nothing, so that the daemon's own process may import it. See README.md.
"""

from __future__ import annotations

import importlib.machinery
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


def library_file() -> Path | None:
    """Return the file of the compiled kernels; None when there is none."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = FOLDER / f"_kernels{suffix}"
        if file.is_file():
            return file
    return None


@cache
def fingerprint() -> str:
    """Return a digest of the compiled kernels: tuning results are valid for these kernels only. "none" without kernels."""
    import hashlib  # a worker does without it, and without its library of 4 MiB

    file = library_file()
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8] if file else "none"
