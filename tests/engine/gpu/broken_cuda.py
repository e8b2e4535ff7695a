"""A copy of llama.cpp's libraries with a CUDA module that cannot be loaded."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from edgeembed.engine.gpu.inventory import library_folder


def module_name() -> str:
    return "ggml-cuda.dll" if sys.platform == "win32" else "libggml-cuda.so"


def build_with_broken_cuda(folder: Path, content: bytes = b"") -> Path:
    """Return a copy of the installed libraries, with a file beside them that is no CUDA module."""
    installed = library_folder({})
    assert installed is not None
    made = folder / "lib"
    shutil.copytree(installed, made)
    (made / module_name()).write_bytes(content)
    return made
