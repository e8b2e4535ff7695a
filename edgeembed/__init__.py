"""edgeembed: a private embedding server for your own computer."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edgeembed")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
