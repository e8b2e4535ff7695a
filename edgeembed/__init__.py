"""edgeembed: a private embedding server for your own computer, and `Embedder`, the same in a Python program."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeembed.embedder import AsyncEmbedder as AsyncEmbedder
    from edgeembed.embedder import Embedder as Embedder
    from edgeembed.embedder import Outputs as Outputs
    from edgeembed.embedder import Ranked as Ranked
    from edgeembed.embedder import SparseVector as SparseVector
    from edgeembed.errors import EdgeEmbedError as EdgeEmbedError

    __version__: str

__all__ = ["AsyncEmbedder", "EdgeEmbedError", "Embedder", "Outputs", "Ranked", "SparseVector", "__version__"]


def __getattr__(name: str) -> Any:
    """Return what `__all__` lists, imported when it is first used: commands import this package, too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        found: Any = _version()
    elif name == "EdgeEmbedError":
        from edgeembed import errors

        found = errors.EdgeEmbedError
    else:
        from edgeembed import embedder

        found = getattr(embedder, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edgeembed")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
