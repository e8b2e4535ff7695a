"""Vectors and scores in a Python program: `from edgeembed import Embedder`. docs/python.md shows how.

Texts go to the running daemon or to an engine of the program's own. No HTTP server is imported.
"""

from edgeembed.embedder.asynchronous import AsyncEmbedder
from edgeembed.embedder.results import Outputs, Ranked, SparseVector
from edgeembed.embedder.sync import Embedder

__all__ = ["AsyncEmbedder", "Embedder", "Outputs", "Ranked", "SparseVector"]
