"""The cache of rows: tiers in memory, on disk and on a server, behind one interface."""

from edgeembed.cache.counters import Counts
from edgeembed.cache.key import KeyMaker
from edgeembed.cache.memory import Wanted
from edgeembed.cache.redis_client import Server
from edgeembed.cache.responses import StoredResponse
from edgeembed.cache.rows import CachedRow
from edgeembed.cache.shared import SharedTier
from edgeembed.cache.tiers import FoundRows, VectorCache

__all__ = ["CachedRow", "Counts", "FoundRows", "KeyMaker", "Server", "SharedTier", "StoredResponse", "VectorCache", "Wanted"]
