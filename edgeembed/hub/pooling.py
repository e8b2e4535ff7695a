"""Text generators that are to embed: files that do not state how the vectors of the tokens become one.

The user chooses the pooling; it is written into the installed copy, which is then an embedding model like any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from edgeembed.common.progress import Progress, ReportLine
from edgeembed.engine.outputs import OUTPUTS_KEY
from edgeembed.errors import HubError
from edgeembed.hub.facts import NOTES_KEY
from edgeembed.hub.fetched import FetchedModel, require_gguf
from edgeembed.hub.gguf.frame_facts import POOLINGS
from edgeembed.hub.gguf.frames import read_frame
from edgeembed.hub.gguf.split import join_parts

Pooling = Literal["last", "mean", "cls"]

_NOTE = (
    "The file does not state a pooling: it was made for generating text. With {pooling} pooling, chosen when it was "
    "installed, its vectors compare texts worse than those of an embedding model of its size."
)


def require_pooling(fetched: FetchedModel, pooling: Pooling | None, name: str, report: ReportLine) -> FetchedModel:
    """Return a fetched model that says how it pools: as it is, or a copy that says `pooling`, which replaces it.

    Raises HubError if it says none and `pooling` is None, or if it says another one.
    """
    said = read_frame(fetched.path).pooling
    if said not in (None, "none") or fetched.header.text(OUTPUTS_KEY) is not None:
        if pooling not in (None, said):
            raise HubError(
                f"{fetched.source}: the file states {said} pooling; --pooling {pooling} is for files that state none"
            )
        return fetched
    if pooling is None:
        raise HubError(
            f"{fetched.source}: the file does not state a pooling (how the vectors of the tokens become one): the model "
            "generates text, or was converted without its pooling. To embed with it all the same, add --pooling last (for "
            "most decoders) or --pooling mean"
        )
    note = _NOTE.format(pooling=pooling)
    number = next(number for number, known in POOLINGS.items() if known == pooling)
    copy = fetched.path.with_name("pooled.gguf")
    with Progress(report, f"writing the pooling of {name}") as progress:
        keys: dict[str, int | str] = {f"{fetched.header.architecture}.pooling_type": number, NOTES_KEY: note}
        sha256 = join_parts([fetched.path], copy, progress.update, keys)
    fetched.path.unlink()
    report(f"{name}: {note}")
    source = f"{fetched.source}, with {pooling} pooling as chosen"
    return replace(fetched, path=copy, sha256=sha256, header=require_gguf(copy), source=source)
