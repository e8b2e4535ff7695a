"""Where llama-cpp-python is: the copy inside a release wheel of edgeembed, or else the installed package.

Nothing is imported from it here, so that the daemon's own process may ask.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

PACKAGE = "llama_cpp"
DISTRIBUTION = "llama-cpp-python"
VENDORED = Path(__file__).parent / "vendored"
"""A folder like site-packages, with the package and its metadata; only release wheels have it (installers/wheel).

Not at the top of site-packages: there it would overwrite the files of an installed llama-cpp-python, which another program
may need, and uninstalling one of the two would break the other.
"""


def find_package() -> ModuleSpec | None:
    """Return how to import the package; None where there is none. The copy goes before an installed package."""
    if VENDORED.is_dir():
        return PathFinder.find_spec(PACKAGE, [str(VENDORED)])
    return importlib.util.find_spec(PACKAGE)


def package_folder() -> Path | None:
    """Return the package's folder, which has the libraries in lib/; None where there is none."""
    found = find_package()
    folders = found.submodule_search_locations if found else None
    return Path(next(iter(folders))) if folders else None


def find_distribution() -> Distribution | None:
    """Return the metadata of llama-cpp-python; None where there is none."""
    from importlib.metadata import Distribution, PackageNotFoundError, distribution  # parsers of mail: not for a worker

    if VENDORED.is_dir():
        return next(iter(Distribution.discover(name=DISTRIBUTION, path=[str(VENDORED)])), None)
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None
