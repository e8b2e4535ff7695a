"""llama-cpp-python's bindings without the rest of its package: chat formats, templates, a second logger.

`import llama_cpp` imports all of that, and takes longer than loading MiniLM. The bindings are one module of the package and
need none of it, so an empty module takes the package's place while they are imported, unless it was imported before.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from edgeembed.engine.llama_package import PACKAGE, find_package


def _empty_package(spec: ModuleSpec) -> ModuleType:
    package = ModuleType(PACKAGE)
    package.__spec__ = spec
    package.__path__ = list(spec.submodule_search_locations or [])
    return package


_spec = find_package() if PACKAGE not in sys.modules else None
if _spec is not None:
    sys.modules[PACKAGE] = _empty_package(_spec)
try:
    import llama_cpp.llama_cpp as lib
finally:
    if _spec is not None:
        # Other code in this process, such as a test, may import the whole package.
        del sys.modules[PACKAGE]

__all__ = ["lib"]
