"""Names that other programs have for the catalogue's models: Ollama's, LM Studio's, and repositories on the hub."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from edgeembed.errors import HubError
from edgeembed.hub.catalogue import CatalogueEntry, HubCheckpoint, HubGguf, catalogue

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


def other_names(entry: CatalogueEntry) -> tuple[str, ...]:
    """Return every other name of a model in lower case: Ollama's, LM Studio's, repositories with and without their owner."""
    sources = [source.repo for source in entry.sources if isinstance(source, HubGguf | HubCheckpoint)]
    repositories = [*sources, *entry.names.hub]
    names = [*entry.names.ollama, *entry.names.lm_studio, *repositories, *(repo.partition("/")[2] for repo in repositories)]
    return tuple(dict.fromkeys(name.lower() for name in names if name.lower() != entry.name))


@functools.cache
def all_names() -> Mapping[str, CatalogueEntry]:
    """Return the entries by all of their names. Raises HubError if two models share a name."""
    found: dict[str, CatalogueEntry] = dict(catalogue())
    for entry in catalogue().values():
        for name in other_names(entry):
            if found.setdefault(name, entry) is not entry:
                raise HubError(f"catalogue: {name} is a name of both {entry.name} and {found[name].name}")
    return found


def meaning(name: str) -> Meaning | None:
    """Return what a name means in the catalogue, in upper or lower case and with or without `:latest`; None if nothing."""
    folded = name.lower().removesuffix(LATEST)
    for prefix in _PREFIXES:
        folded = folded.removeprefix(prefix)
    if entry := all_names().get(folded):
        return Meaning(entry, None)
    found = _WITH_TYPE.fullmatch(folded)
    if found and (entry := all_names().get(found[1])):
        return Meaning(entry, found[2].replace("fp", "f").upper())
    return None
