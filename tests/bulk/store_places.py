"""A new store of each kind, as users name it."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STORES = ["sqlite", "lancedb", "qdrant", "postgresql"]


@contextmanager
def place_of(kind: str, folder: Path) -> Iterator[str]:
    """Yield the name of a store that does not exist yet."""
    match kind:
        case "sqlite":
            yield f"sqlite:{folder}/index.db#notes"
        case "lancedb":
            yield f"lancedb:{folder}/lance#notes"
        case "qdrant":
            yield f"qdrant:{folder}/qdrant#notes"
        case "faiss":
            yield f"faiss:{folder}/index.faiss"
        case _:
            yield f"{_postgresql()}#t{uuid.uuid4().hex[:12]}"


@functools.cache
def _postgresql() -> str:
    """Start PostgreSQL with pgvector, which ends with this process, and return its URL."""
    if importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver, which brings PostgreSQL with pgvector, is not installed")
    import pgserver

    # Unix sockets have short paths, and pytest's folders are not for the user as whom PostgreSQL runs.
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    uri: str = pgserver.get_server(folder, cleanup_mode="delete").get_uri()
    return uri
