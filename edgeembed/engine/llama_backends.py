"""Kernels that llama.cpp loads at run time: a build for many processors (GGML_BACKEND_DL) has a module for each generation.

Such a build computes nothing before a module is loaded. They lie beside the library, and are loaded through its own handle:
a second copy of ggml would have a registry that llama.cpp never reads. llama.cpp's own search, without a folder, would take
modules from the working directory; it is never used.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from edgeembed.engine.llama_import import lib
from edgeembed.engine.llama_library import ModelLoadError, function

FOLDER = Path(lib.__file__).parent / "lib"


@cache
def load_backends(*, oldest: bool) -> None:
    """Load the best module for this processor, or the one with the oldest kernels; nothing where the build needs none.

    Raises ModelLoadError when no module suits this processor.
    """
    modules = processor_modules()
    if not modules:
        return
    if not oldest:
        function("ggml_backend_load_all_from_path", None, ctypes.c_char_p)(str(FOLDER).encode())
    else:
        usable = {file: score for file in modules if (score := _score(file)) > 0}
        if usable:
            # The baseline of the architecture scores like the plainest of the others: its name decides then.
            file = min(usable, key=lambda name: (usable[name], name.name))
            function("ggml_backend_load", ctypes.c_void_p, ctypes.c_char_p)(str(file).encode())
    if not function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(0):
        raise ModelLoadError(f"no module in {FOLDER} suits this processor", fatal=True)


def processor_modules() -> list[Path]:
    """Give the modules for processors; none where the kernels are in the library itself."""
    return sorted(file for file in FOLDER.glob("*ggml-cpu-*") if file.suffix in (".so", ".dll"))


def _score(file: Path) -> int:
    """Ask a module how well it suits this processor; 0 when it cannot run here."""
    try:
        score = ctypes.CDLL(str(file)).ggml_backend_score
    except (OSError, AttributeError):
        return 0
    score.restype = ctypes.c_int
    score.argtypes = ()
    return int(score())
