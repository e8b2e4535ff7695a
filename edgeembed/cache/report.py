"""What a cache folder holds, and its hits and misses, by model."""

from __future__ import annotations

import msgspec

from edgeembed.cache.counters import Counts
from edgeembed.cache.disk import DiskTier


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One model's share of the cache. Times are Unix seconds."""

    model: str
    """NAME:TYPE; empty for rows without a label."""
    digest: str
    """First digits of the SHA-256 of the model's file."""
    entries: int
    bytes: int
    oldest: float | None
    newest: float | None
    hits: int
    misses: int
    hit_rate: float | None
    """Share of texts whose row was found, 0 to 1."""
    saved_seconds: float
    """Computing time that hits saved."""
    since: float | None
    """When counting of hits and misses began."""


def report_models(tier: DiskTier) -> list[ModelReport]:
    """Return of each model what is on disk, and its hits and misses since the folder was created. Raises one of FAULTS."""
    on_disk = {found.model: found for found in tier.models()}
    counted = tier.counts()
    reports = []
    for label in dict.fromkeys((*on_disk, *counted)):
        rows = on_disk.get(label)
        since, counts = counted.get(label, (None, Counts()))
        model, _, digest = label.partition("@")
        reports.append(
            ModelReport(
                model=model,
                digest=digest,
                entries=rows.entries if rows else 0,
                bytes=rows.bytes if rows else 0,
                oldest=rows.oldest if rows else None,
                newest=rows.newest if rows else None,
                hits=counts.hits,
                misses=counts.misses,
                hit_rate=counts.hit_rate,
                saved_seconds=round(counts.saved_seconds, 3),
                since=since,
            )
        )
    return reports


def labels_of(tier: DiskTier, name: str) -> list[str]:
    """Return the labels in the cache that a model's name, NAME or NAME:TYPE, matches. Raises one of FAULTS."""
    return [rows.model for rows in tier.models() if stands_for(name, rows.model)]


def stands_for(name: str, label: str) -> bool:
    """Return whether a model's name, NAME or NAME:TYPE, matches a label."""
    spec = label.partition("@")[0].lower()
    return name.lower() in (spec, spec.rpartition(":")[0], label.lower())
