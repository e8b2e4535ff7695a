"""Names that other programs have for the catalogue's models: Ollama's, LM Studio's, and repositories on the hub."""

from __future__ import annotations

import re
from typing import NamedTuple

from edgeembed.hub.catalogue import CatalogueEntry, catalogue

LATEST = ":latest"
"""The tag that Ollama adds to a name without one."""

_PREFIXES = ("hf.co/", "huggingface.co/", "library/")
"""What Ollama's clients may put before a repository of the hub, and before a name of its own library."""
_WITH_TYPE = re.compile(r"(.+)[:@-](b?f16|f32|fp16|fp32|q[458]_[01]|q[2-6]_k(?:_[sml])?|iq[1-4]_(?:xxs|xs|s|m|nl))")
"""A quantisation type at the end: Ollama writes NAME:TAG-TYPE, LM Studio NAME@TYPE, others NAME:TYPE."""


class Meaning(NamedTuple):
    """A catalogue model, and the quantisation type that its name demands, if any."""

    entry: CatalogueEntry
    type: str | None

    @property
    def spec(self) -> str:
        """Its own name here: NAME or NAME:TYPE."""
        return self.entry.name + (f":{self.type}" if self.type else "")


def meaning(name: str) -> Meaning | None:
    """Return what a name means in the catalogue, in upper or lower case and with or without `:latest`; None if nothing."""
    names = catalogue().by_any_name
    folded = name.lower().removesuffix(LATEST)
    for prefix in _PREFIXES:
        folded = folded.removeprefix(prefix)
    if entry := names.get(folded):
        return Meaning(entry, None)
    found = _WITH_TYPE.fullmatch(folded)
    if found and (entry := names.get(found[1])):
        return Meaning(entry, found[2].replace("fp", "f").upper())
    return None
