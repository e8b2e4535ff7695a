"""The cache of rows: a memory tier and a disk tier behind one interface."""

from edgeembed.cache.counters import Counts
from edgeembed.cache.key import KeyMaker
from edgeembed.cache.memory import Wanted
from edgeembed.cache.responses import StoredResponse
from edgeembed.cache.rows import CachedRow
from edgeembed.cache.tiers import FoundRows, VectorCache

__all__ = ["CachedRow", "Counts", "FoundRows", "KeyMaker", "StoredResponse", "VectorCache", "Wanted"]
