"""Facts in the metadata of a GGUF file, and the catalogue entry that it belongs to."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeembed.engine.classes import FUNCTION_KEY, LABELS_KEY, Classes, read_classes
from edgeembed.engine.dense import outputs_key
from edgeembed.engine.interface import DENSE, Output
from edgeembed.engine.late_interaction import LAYERS_KEY, PREFIX, SCORE_KEY
from edgeembed.engine.outputs import OUTPUTS_KEY, parse_outputs
from edgeembed.engine.pair_template import TEMPLATE_KEY
from edgeembed.errors import HubError
from edgeembed.hub.catalogue import CatalogueEntry, Matryoshka, Prompts, catalogue, match_general_name
from edgeembed.hub.gguf.frames import frame_of_foreign
from edgeembed.hub.gguf.header import RANK_POOLING, GgufHeader

_PROMPT = "edgeembed.prompt."
_CLASSES = (LABELS_KEY, FUNCTION_KEY, TEMPLATE_KEY)
NOTES_KEY = "edgeembed.converter.notes"
"""What a file does in another way than its checkpoint: one sentence a line."""
PROMPT_KINDS = Prompts.__struct_fields__
"""The kinds of prompts of an embedder in a file of our converter, and the default instruction."""


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts from the metadata of a GGUF file; None where the file does not state one.

    They are stored in manifests, so they are plain values: a version that does not know a kind of prompt still reads it.
    """

    architecture: str | None = None
    general_name: str | None = None
    license: str | None = None
    dimensions: int | None = None
    ranks: bool | None = None
    """Whether it computes scores: it is a reranker, or with `classes` a classifier."""
    classes: dict[str, str] = {}
    """The metadata of a classifier, mended where it has to be: its classes, and its template for pairs."""
    prompts: dict[str, str] = {}
    """In a file of our converter: the checkpoint's templates, by kind."""
    notes: list[str] = []
    """In a file of our converter: what it does in another way than its checkpoint."""
    max_seq_length: int | None = None
    """In a file of our converter: the length in tokens at which sentence-transformers cuts texts, if it takes more."""
    outputs: tuple[Output, ...] = DENSE
    """What it has heads for."""
    max_sim: str | None = None
    """How the best cosines of a query's tokens become a score, if it has vectors for late interaction: sum or mean."""
    token_dimensions: int | None = None
    """Length of those vectors."""
    matryoshka: tuple[int, int] | None = None
    """Shortest and longest vector."""

    @property
    def own_prompts(self) -> Prompts | None:
        """The file's prompts, if it has any. Raises ValueError for an invalid template."""
        given = {kind: text for kind, text in self.prompts.items() if kind in PROMPT_KINDS}
        return Prompts(**given) if given else None

    @property
    def own_classes(self) -> Classes | None:
        """The classes, if it is a classifier. Raises ValueError if they are invalid."""
        classes = read_classes(self.classes.get)
        return None if classes is None else msgspec.structs.replace(classes, pairs=TEMPLATE_KEY in self.classes)

    @property
    def own_matryoshka(self) -> Matryoshka | None:
        """The file's vector lengths, if it states any."""
        return Matryoshka(min=self.matryoshka[0], max=self.matryoshka[1]) if self.matryoshka else None


def facts_of(header: GgufHeader, path: Path) -> GgufFacts:
    """Return the facts in a header. path: of the file. Raises HubError for invalid values, or if the file is gone."""
    pooling = header.pooling
    own: dict[str, str | None] = {key: header.text(key) for key in _CLASSES}
    if pooling in (None, RANK_POOLING) and own[LABELS_KEY] is None and (mended := frame_of_foreign(path)) is not None:
        own = {key: None if (value := mended.mends.get(key)) is None else str(value) for key in _CLASSES}
    if pooling is None and (frame := frame_of_foreign(path)) is not None and frame.pooling == "rank":
        pooling = RANK_POOLING  # a cross-encoder of llama.cpp's converter, which writes no pooling for those
    try:
        outputs = parse_outputs(header.text(OUTPUTS_KEY))
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error
    least, most = header.number("edgeembed.matryoshka.min"), header.number("edgeembed.matryoshka.max")
    facts = GgufFacts(
        architecture=header.architecture,
        general_name=header.text("general.name"),
        license=header.text("general.license") or None,
        dimensions=header.dimensions,
        ranks=None if pooling is None else pooling == RANK_POOLING,
        classes={key: value for key, value in own.items() if value is not None} if own[LABELS_KEY] else {},
        prompts={
            key.removeprefix(_PROMPT): value
            for key, value in header.values.items()
            if key.startswith(_PROMPT) and isinstance(value, str)
        },
        notes=(header.text(NOTES_KEY) or "").splitlines(),
        max_seq_length=header.number("edgeembed.max_seq_length") or None,
        outputs=outputs,
        max_sim=header.text(SCORE_KEY),
        token_dimensions=header.number(outputs_key(max(1, header.number(LAYERS_KEY) or 1) - 1, PREFIX)),
        matryoshka=(least, most) if least and most else None,
    )
    try:
        _ = facts.own_prompts, facts.own_classes
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error
    return facts


def entry_of(facts: GgufFacts, name: str | None) -> CatalogueEntry | None:
    """Return the catalogue entry of a file: by the name it was installed under, or else by its `general.name`."""
    if name is not None and (entry := catalogue().get(name)):
        return entry
    entry = match_general_name(facts.general_name or "")
    # Names are easily reused, and the prompts of another model would silently spoil every vector.
    if entry and (entry.architecture, entry.dimensions) == (facts.architecture, facts.dimensions):
        return entry
    return None
