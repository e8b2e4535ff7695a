"""Texts sent as token ids of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeembed.engine.interface import Prompted, Text
from edgeembed.errors import EmptyInputError, RequestError
from edgeembed.models.prompts import Prompt

KIND = "ids"
"""Distinguishes their names in the cache from those of texts."""
_LARGEST_ID = 2**31 - 1


def names_of(ids: Sequence[Sequence[int]], place: Callable[[int], str]) -> list[str]:
    """Return a name for each list of ids, for the cache. `place` returns what a list is called in the request, for errors.

    Raises RequestError for an id that no model can have, EmptyInputError for an empty list.
    """
    for index, each in enumerate(ids):
        if not each:
            raise EmptyInputError(f"{place(index)} has no token ids", param=place(index))
        if wrong := next((id_ for id_ in each if not 0 <= id_ <= _LARGEST_ID), None):
            raise RequestError(f"{place(index)}: {wrong} is not a token id", param=place(index))
    return [",".join(map(str, each)) for each in ids]


def texts_of(ids: Sequence[Sequence[int]], prompt: Prompt) -> list[Text]:
    """Return lists of ids as the engine takes them, with the prompt around each."""
    (around,) = prompt.around([""])
    prefix, suffix = (around.prefix, around.suffix) if isinstance(around, Prompted) else ("", "")
    return [Prompted(prefix, "", suffix, ids=np.array(each, dtype=np.int32).tobytes()) for each in ids]
