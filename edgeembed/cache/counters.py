"""What the cache did, by model."""

from __future__ import annotations

import msgspec

from edgeembed.common.status import CacheCounts


class Counts(CacheCounts):
    """The counts of the status, with arithmetic."""

    @property
    def hits(self) -> int:
        return self.memory_hits + self.disk_hits

    @property
    def hit_rate(self) -> float | None:
        """Give the share of texts whose row was found, 0 to 1; None when none was looked up."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def plus(self, other: Counts) -> Counts:
        """Give the sum of both."""
        return Counts(*(getattr(self, name) + getattr(other, name) for name in COUNTS))

    def minus(self, other: Counts) -> Counts:
        """Give what came since `other`."""
        return Counts(*(getattr(self, name) - getattr(other, name) for name in COUNTS))


COUNTS = tuple(field.name for field in msgspec.structs.fields(Counts))
