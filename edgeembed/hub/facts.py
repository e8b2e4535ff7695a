"""What a GGUF file says of itself, and which entry of the catalogue it belongs to."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeembed.errors import HubError
from edgeembed.hub.catalogue import CatalogueEntry, Matryoshka, Prompts, catalogue, match_general_name
from edgeembed.hub.gguf.header import RANK_POOLING, GgufHeader

_PROMPT = "edgeembed.prompt."


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is read from the metadata of a GGUF file; a field is None where the file says nothing.

    It is kept in manifests, so it holds plain values: a version that does not know a kind of prompt still reads it.
    """

    architecture: str | None = None
    general_name: str | None = None
    license: str | None = None
    dimensions: int | None = None
    ranks: bool | None = None
    """Whether it is a reranker."""
    prompts: dict[str, str] = {}
    """Of a file that our converter made: the checkpoint's templates, by kind."""
    matryoshka: tuple[int, int] | None = None
    """Least and largest length."""

    @property
    def own_prompts(self) -> Prompts | None:
        """The file's prompts; None where it has none. Raises ValueError for a template that cannot be filled."""
        given = {kind: text for kind, text in self.prompts.items() if kind in ("query", "document", "instruction")}
        return Prompts(**given) if given else None

    @property
    def own_matryoshka(self) -> Matryoshka | None:
        """The vector lengths that the file names."""
        return Matryoshka(min=self.matryoshka[0], max=self.matryoshka[1]) if self.matryoshka else None


def facts_of(header: GgufHeader, path: Path) -> GgufFacts:
    """Read the facts from a header; `path` is named in errors. Raises HubError for a prompt that cannot be filled."""
    least, most = header.number("edgeembed.matryoshka.min"), header.number("edgeembed.matryoshka.max")
    facts = GgufFacts(
        architecture=header.architecture,
        general_name=header.text("general.name"),
        license=header.text("general.license") or None,
        dimensions=header.dimensions,
        ranks=None if header.pooling is None else header.pooling == RANK_POOLING,
        prompts={
            key.removeprefix(_PROMPT): value
            for key, value in header.values.items()
            if key.startswith(_PROMPT) and isinstance(value, str)
        },
        matryoshka=(least, most) if least and most else None,
    )
    try:
        _ = facts.own_prompts
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error
    return facts


def entry_of(facts: GgufFacts, name: str | None) -> CatalogueEntry | None:
    """Find the entry of a file: by the name that it was installed under, else by its own `general.name`."""
    if name is not None and (entry := catalogue().get(name)):
        return entry
    entry = match_general_name(facts.general_name or "")
    # A name is easily given; the prompts of another model would spoil every vector in silence.
    if entry and (entry.architecture, entry.dimensions) == (facts.architecture, facts.dimensions):
        return entry
    return None
