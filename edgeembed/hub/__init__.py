"""Models: what there is (catalogue), where it comes from (sources), what is on this machine (store)."""

from edgeembed.hub.catalogue import (
    DEFAULT_MODEL,
    STARTER_MODEL,
    CatalogueEntry,
    Matryoshka,
    Prompts,
)
from edgeembed.hub.install import Spec, ensure_installed, first_model, parse_spec
from edgeembed.hub.store import InstalledModel, Store

__all__ = [
    "DEFAULT_MODEL",
    "STARTER_MODEL",
    "CatalogueEntry",
    "InstalledModel",
    "Matryoshka",
    "Prompts",
    "Spec",
    "Store",
    "ensure_installed",
    "first_model",
    "parse_spec",
]
