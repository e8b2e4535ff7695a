"""What a classifier's file says of its classes: their names, and the function that makes probabilities of the logits.

llama.cpp has an array for the names (`classifier.output_labels`), but its API returns no arrays, and so they are stored once
more, as a JSON list. A file with this key is a classifier: any text is computed, or a pair if it has a template for pairs. A
reranker has the same pooling (rank) and lacks the key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import msgspec

LABELS_KEY = "edgeembed.classify.labels"
FUNCTION_KEY = "edgeembed.classify.function"
MOST_LABELS = 1024
LONGEST_LABELS = 2**18
"""Characters of all names together, as JSON."""

ClassFunction = Literal["softmax", "sigmoid", "identity"]
"""softmax: a text belongs to one class. sigmoid: to any number of them. identity: the output is a number already."""


class Classes(msgspec.Struct, frozen=True):
    """The classes of a model, in the order of its logits."""

    labels: tuple[str, ...]
    function: ClassFunction = "softmax"
    pairs: bool = False
    """Whether the file has a template for pairs of texts; not among the keys of the classes."""

    def metadata(self) -> dict[str, str]:
        """Return the keys for a file."""
        return {LABELS_KEY: msgspec.json.encode(self.labels).decode(), FUNCTION_KEY: self.function}


def read_classes(value: Callable[[str], str | None]) -> Classes | None:
    """Return the classes of a file; None for a file that is no classifier.

    value: returns a metadata value as text, or None. Raises ValueError, which names the key.
    """
    text = value(LABELS_KEY)
    if text is None:
        return None
    if len(text) > LONGEST_LABELS:
        raise ValueError(f"key {LABELS_KEY!r} has {len(text)} characters; expected at most {LONGEST_LABELS}")
    try:
        labels = msgspec.json.decode(text, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"key {LABELS_KEY!r} is not a list of names: {error}") from error
    if not 1 <= len(labels) <= MOST_LABELS:
        raise ValueError(f"key {LABELS_KEY!r} has {len(labels)} names; expected 1 to {MOST_LABELS}")
    function = value(FUNCTION_KEY)
    for known in get_args(ClassFunction):
        if function == known:
            return Classes(labels, known)
    raise ValueError(f"key {FUNCTION_KEY!r} is {function!r}; expected one of {', '.join(get_args(ClassFunction))}")
