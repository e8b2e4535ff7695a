"""llama-cpp-python's bindings without what its package imports around them: chat formats, templates, a second logger.

`import llama_cpp` runs all of that, and takes longer than loading MiniLM. The bindings are one module of the package and
need none of it, so an empty shell stands for the package while they are imported, unless somebody imported it before.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "llama_cpp"


def _make_shell(spec: ModuleSpec) -> ModuleType:
    shell = ModuleType(_PACKAGE)
    shell.__spec__ = spec
    shell.__path__ = list(spec.submodule_search_locations or [])
    return shell


_spec = importlib.util.find_spec(_PACKAGE) if _PACKAGE not in sys.modules else None
if _spec is not None:
    sys.modules[_PACKAGE] = _make_shell(_spec)
try:
    import llama_cpp.llama_cpp as lib
finally:
    if _spec is not None:
        # Somebody else in this process, such as a test, may want the whole package.
        del sys.modules[_PACKAGE]

__all__ = ["lib"]
