"""Routers of sentence-transformers: queries and documents that are read by different modules.

Format: sentence_transformers' Router (once Asym): router_config.json with the class of each module, by its folder, and the
folders of each route in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeembed.errors import ConversionError
from edgeembed_convert.jsonfile import read_json

ROUTERS = ("Router", "Asym")
_FILES = ("router_config.json", "config.json")
"""Asym wrote the latter."""

Modules = list[tuple[str, Path]]


def read_routes(folder: Path, module: Callable[[Any, Any], tuple[str, Path]]) -> tuple[Modules, Modules]:
    """Return the modules for documents and those for queries of a Router in this folder.

    module: makes the name and the folder of a module from its class and its path, as modules.json has them.

    Raises ConversionError if there are other routes.
    """
    file = next((folder / name for name in _FILES if (folder / name).is_file()), folder / _FILES[0])
    config = read_json(file)
    types, structure = config.get("types"), config.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise ConversionError(f"{file}: a Router without types or structure")
    if set(structure) != {"query", "document"}:
        raise ConversionError(
            f"{file}: a Router with the routes {', '.join(map(repr, structure))}; supported are 'query' and 'document'"
        )
    routes: dict[str, Modules] = {}
    for name, paths in structure.items():
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path in types for path in paths):
            raise ConversionError(f"{file}: the route {name!r} is {paths!r}; expected a list of modules in types")
        routes[name] = [module(types[path], path) for path in paths]
    return routes["document"], routes["query"]
