"""edgeembed: a private embedding server for your own computer."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Return `__version__`, so that importlib.metadata is only imported when it is used."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("edgeembed")
    except PackageNotFoundError:  # a source tree that was never installed
        found = "0+unknown"
    globals()["__version__"] = found
    return found
