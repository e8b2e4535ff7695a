"""The cache of rows: a hot tier in memory over a disk tier, behind one interface."""

from edgeembed.cache.key import KeyMaker
from edgeembed.cache.tiers import CacheStats, VectorCache

__all__ = ["CacheStats", "KeyMaker", "VectorCache"]
