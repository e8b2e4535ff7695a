"""The types in which a model of the catalogue can be had."""

from __future__ import annotations

from edgeembed.hub.catalogue import CatalogueEntry, HubGguf

CONVERTED_TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_XS",
    "Q8_E", "Q5_E", "Q4_E",
)  # fmt: skip
"""Types to convert to: a copy of edgeembed_convert's QUANTIZATIONS, which takes most of a second to import."""


def offered_types(entry: CatalogueEntry) -> list[str]:
    """Return the types in which a model of the catalogue is available."""
    found = [(source.type,) if isinstance(source, HubGguf) else CONVERTED_TYPES for source in entry.sources]
    return list(dict.fromkeys(kind for kinds in found for kind in kinds))
