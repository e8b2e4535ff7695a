"""Counters of hits and misses, by model."""

from __future__ import annotations

import msgspec

from edgeembed.common.status import CacheCounts


class Counts(CacheCounts):
    """Hits and misses of one model, with arithmetic."""

    @property
    def hits(self) -> int:
        return self.memory_hits + self.disk_hits + self.shared_hits

    @property
    def hit_rate(self) -> float | None:
        """Share of texts whose row was found, 0 to 1; None when none was looked up."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(*(getattr(self, name) + getattr(other, name) for name in COUNTS))

    def minus(self, other: Counts) -> Counts:
        """Return the difference to earlier counts."""
        return Counts(*(getattr(self, name) - getattr(other, name) for name in COUNTS))


COUNTS = tuple(field.name for field in msgspec.structs.fields(Counts))
