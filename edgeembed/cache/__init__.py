"""The cache of rows: a hot tier in memory over a disk tier, behind one interface."""

from edgeembed.cache.answers import Answer
from edgeembed.cache.counters import Counts
from edgeembed.cache.key import KeyMaker
from edgeembed.cache.memory import Wanted
from edgeembed.cache.rows import CachedRow
from edgeembed.cache.tiers import VectorCache

__all__ = ["Answer", "CachedRow", "Counts", "KeyMaker", "VectorCache", "Wanted"]
